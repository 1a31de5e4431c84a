"""Sampled production prompts as candidates for canaries: a file that the operator has exported.

The store is not read here. Where it keeps text, exporting it is a query, and a deliberate step: what is chosen stays in
the golden record as text, for as long as the record is kept.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from probes.canaries.canary_file import ROLES, Canary, CanarySet, json_object
from probes.errors import Refused

Turns = tuple[Mapping[str, str], ...]
SHAPE = '{"messages": [{"role": "user", "content": "..."}]} or {"prompt": "..."}'

LONE = re.compile("[\ud800-\udfff]")


def as_it_is(turn: Mapping[str, str]) -> Mapping[str, str]:
    return turn


def read_exported(
    path: Path, adapter: str, clean: Callable[[Mapping[str, str]], Mapping[str, str]] = as_it_is
) -> CanarySet:
    """The prompts of a JSON Lines file, each once; other fields are not looked at, so ``gapwatch.v1`` records will do.

    adapter: lines that name another one are left out; clean: what becomes of each turn before it is kept or hashed.
    An answer at the end of ``messages`` is cut off: the golden adapter writes its own. Canaries are called after the
    hash of their text, so the same prompt is the same canary.

    Raises Refused with the line's number for a line without a prompt, and for a file without any for this adapter; what
    a line holds is never repeated.
    """
    found: dict[str, Canary] = {}
    for where, row in _rows(path):
        if row.get("adapter", adapter) != adapter:
            continue
        turns = tuple(map(clean, _turns(row, where)))
        name = "traffic-" + hashlib.sha256(json.dumps(turns, sort_keys=True).encode()).hexdigest()[:12]
        found.setdefault(name, Canary(name, turns))
    if not found:
        raise Refused(str(path), "no prompts", f"at least one for {adapter}")
    return CanarySet(tuple(found.values()))


def together(own: CanarySet, exported: CanarySet) -> CanarySet:
    """The user's own canaries first, then the exported prompts."""
    return CanarySet((*own.canaries, *exported.canaries))


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        seen = f"no UTF-8 at byte {error.start}" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise Refused(str(path), seen, f"a readable UTF-8 file, one {SHAPE} a line") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        yield where, json_object(line, where, SHAPE)


def _turns(row: Mapping[str, Any], where: str) -> Turns:
    if isinstance(row.get("prompt"), str) and not row.get("messages"):
        return ({"role": "user", "content": _whole(row["prompt"])},)
    told = row.get("messages")
    if not isinstance(told, list):
        raise Refused(where, f"neither a prompt nor a list of messages but {type(told).__name__}", SHAPE)
    if wrong := next((number for number, turn in enumerate(told, start=1) if not _is_turn(turn)), None):
        raise Refused(where, f"a message without a known role or a text: number {wrong}", SHAPE)
    turns = [{"role": turn["role"], "content": _whole(turn["content"])} for turn in told]
    while turns and turns[-1]["role"] == "assistant":
        turns.pop()
    if not turns or turns[-1]["role"] != "user":
        raise Refused(where, "no turn of the user at the end", SHAPE)
    return tuple(turns)


def _whole(text: str) -> str:
    """Half a character, as a text has that was cut inside one, as engines read it: U+FFFD."""
    return LONE.sub("\ufffd", text)


def _is_turn(turn: object) -> bool:
    return isinstance(turn, dict) and turn.get("role") in ROLES and isinstance(turn.get("content"), str)
