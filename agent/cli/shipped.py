"""gapwatch runbook, gapwatch sample-config: what is shipped beside the code, as text."""

from __future__ import annotations

import sys

from agent.shipped import RUNBOOKS, SAMPLE, runbook, texts


def print_runbook(cause: str | None) -> int:
    """The page of one cause, as incidents name it; the names of all pages when none is given. Raises Refused."""
    said = runbook(cause) if cause else "".join(f"{name}\n" for name in texts(RUNBOOKS, ".md"))
    sys.stdout.write(said)
    return 0


def print_sample() -> int:
    """The sample configuration, every setting with its words."""
    sys.stdout.write(SAMPLE.read_text(encoding="utf-8"))
    return 0
