"""gapwatch runbook, gapwatch sample-config: print files that are shipped beside the code."""

from __future__ import annotations

import sys

from agent.shipped import RUNBOOKS, SAMPLE, runbook, texts


def print_runbook(cause: str | None) -> int:
    """The runbook of one cause, as incidents name it; without one the names of all. Raises Refused."""
    text = runbook(cause) if cause else "".join(f"{name}\n" for name in texts(RUNBOOKS, ".md"))
    sys.stdout.write(text)
    return 0


def print_sample() -> int:
    """The sample configuration: every setting, with its meaning."""
    sys.stdout.write(SAMPLE.read_text(encoding="utf-8"))
    return 0
