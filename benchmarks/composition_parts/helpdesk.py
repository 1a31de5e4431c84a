"""The example's adapters on SmolLM2, from the golden records that ship with them: these hold what is asked of a base.

A real base is slow on a CPU, so only the first held-out canaries of each record are replayed.
"""

from __future__ import annotations

from agent.demo.stage import ADAPTERS, BASE, HELPDESK
from benchmarks.composition_parts.sets import BaseWithSkills
from probes.artefacts.base_files import packaged_gguf
from probes.golden.archive import load_pinned

NAME, NAMES = BASE, ADAPTERS
CANARIES = 8


def helpdesk() -> BaseWithSkills:
    """Of its three adapters. Raises Unreplayable without the package of the base."""
    records = {name: load_pinned(HELPDESK / "golden", name) for name in NAMES}
    return BaseWithSkills(
        NAME,
        packaged_gguf(),
        {name: HELPDESK / "adapters" / name for name in NAMES},
        {name: list(record.held_out[:CANARIES]) for name, record in records.items()},
    )
