"""gapwatch runbook, gapwatch sample-config: print files that are shipped beside the code."""

from __future__ import annotations

import sys
from pathlib import Path

from agent.alerting.policy import Rule
from agent.config import load
from agent.errors import Refused
from agent.shipped import RUNBOOKS, SAMPLE, runbook, texts


def print_runbook(cause: str | None, path: Path) -> int:
    """The runbook of one cause, as incidents name it; without one the names of all. Raises Refused.

    path: of a configuration, which may say how the team rolls back; a runbook is printed without one too, and beside
    one that cannot be used
    """
    text = runbook(cause) if cause else "".join(f"{name}\n" for name in texts(RUNBOOKS, ".md"))
    sys.stdout.write(text)
    if cause:
        sys.stdout.writelines(f"\n**How your team rolls back.** {way}\n" for way in _ways_back(cause, path))
    return 0


def _ways_back(cause: str, path: Path) -> list[str]:
    """Of this cause, else of the adapters that have one of their own, and of all."""
    try:
        policy = load(path).alerts.policy
    except Refused:
        return []
    if own := policy.causes.get(cause, Rule()).rollback:
        return [own]
    of_adapters = [f"{name}: {rule.rollback}" for name, rule in policy.adapters.items() if rule.rollback]
    return [*of_adapters, *([policy.rollback] if policy.rollback else [])]


def print_sample() -> int:
    """The sample configuration: every setting, with its meaning."""
    sys.stdout.write(SAMPLE.read_text(encoding="utf-8"))
    return 0
