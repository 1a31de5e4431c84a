"""gapwatch runbook, gapwatch glossary, gapwatch sample-config: print files that are shipped beside the code."""

from __future__ import annotations

import sys
from pathlib import Path

from agent.alerting.policy import Rule
from agent.config import load
from agent.errors import Refused
from agent.shipped import RUNBOOKS, SAMPLE, glossary, runbook, texts


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


def print_glossary(word: str | None) -> int:
    """What a word means, by its name or a part of it; without one all words. Raises Refused for an unknown one."""
    words = glossary()
    if not word:
        sys.stdout.write("".join(f"{name}\n" for name in words))
        return 0
    wanted = word.casefold()
    exact = [name for name in words if name.casefold() == wanted]
    matching = exact or [name for name in words if wanted in name.casefold()]
    if not matching:
        raise Refused("glossary", repr(word), "a word that gapwatch glossary lists")
    sys.stdout.write("".join(f"{name}: {words[name]}\n" for name in matching))
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
