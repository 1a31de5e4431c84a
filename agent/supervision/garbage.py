"""The collector of garbage stops every thread while it walks over all objects: how many that are.

A process with numpy, the drivers and an agent's parts has some hundred thousand which stay until it ends. They are left
out of the walk once they are there, so that the loop waits for what came since.
"""

from __future__ import annotations

import gc


def collect() -> None:
    """All garbage, also among what was left out: the parts of a former agent refer to each other."""
    gc.unfreeze()
    gc.collect()


def leave_out() -> None:
    """What is there by now stays, and is not walked over again until ``collect``."""
    gc.collect()
    gc.freeze()
