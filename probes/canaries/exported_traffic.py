"""Sampled production prompts as candidate canaries, from a file that the operator exported or had written.

The store is deliberately not read here: to write its text to a file (``gapwatch canaries --from-traffic`` does) is a
step of the operator, because chosen prompts stay in the golden record as text for as long as that is stored. Nothing of
a line is ever repeated in a message.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from probes.canaries.canary_file import ROLES, Canary, CanarySet, json_object
from probes.errors import Refused

Turns = tuple[Mapping[str, str], ...]
SHAPE = '{"messages": [{"role": "user", "content": "..."}]} or {"prompt": "..."}'

LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def unchanged(turn: Mapping[str, str]) -> Mapping[str, str]:
    return turn


def read_exported(
    path: Path, adapter: str, clean: Callable[[Mapping[str, str]], Mapping[str, str]] = unchanged
) -> CanarySet:
    """The distinct prompts of a JSON Lines file; other fields are ignored, so ``gapwatch.v1`` records can be read.

    adapter: lines of another one are left out; clean: applied to each turn before it is stored or hashed (redaction)
    An answer at the end of ``messages`` is cut off: the golden adapter generates its own. The id of a canary is a hash
    of its text, so the same prompt is the same canary.

    Raises Refused with the line's number for a line without a prompt, and for a file without any for this adapter.
    """
    canaries: dict[str, Canary] = {}
    for where, row in _rows(path):
        if row.get("adapter", adapter) != adapter:
            continue
        canary = canary_of(tuple(map(clean, _turns(row, where))))
        canaries.setdefault(canary.id, canary)
    if not canaries:
        raise Refused(str(path), "no prompts", f"at least one for {adapter}")
    return CanarySet(tuple(canaries.values()))


def canary_of(turns: Turns) -> Canary:
    """One prompt as a canary, named by a hash of its text. turns: the last one the user's"""
    return Canary("traffic-" + hashlib.sha256(json.dumps(turns, sort_keys=True).encode()).hexdigest()[:12], turns)


def prompt_turns(messages: Sequence[Mapping[str, str]]) -> Turns:
    """The chat turns up to the last one of the user, each with its role and text alone; () where no user's turn is
    last but for answers. Halves of characters become U+FFFD."""
    turns = [{"role": turn["role"], "content": _whole(turn["content"])} for turn in messages]
    while turns and turns[-1]["role"] == "assistant":
        turns.pop()
    return tuple(turns) if turns and turns[-1]["role"] == "user" else ()


def together(own: CanarySet, exported: CanarySet) -> CanarySet:
    """The user's own canaries first, then the exported prompts."""
    return CanarySet((*own.canaries, *exported.canaries))


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        present = f"no UTF-8 at byte {error.start}" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise Refused(str(path), present, f"a readable UTF-8 file, one {SHAPE} per line") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        yield where, json_object(line, where, SHAPE)


def _turns(row: Mapping[str, Any], where: str) -> Turns:
    if isinstance(row.get("prompt"), str) and not row.get("messages"):
        return ({"role": "user", "content": _whole(row["prompt"])},)
    messages = row.get("messages")
    if not isinstance(messages, list):
        raise Refused(where, f"neither a prompt nor a list of messages but {type(messages).__name__}", SHAPE)
    if wrong := next((number for number, turn in enumerate(messages, start=1) if not _is_turn(turn)), None):
        raise Refused(where, f"message {wrong} without a known role or without text", SHAPE)
    if not (turns := prompt_turns(messages)):
        raise Refused(where, "no user's turn at the end", SHAPE)
    return turns


def _whole(text: str) -> str:
    """With U+FFFD for lone surrogates (a text cut inside a character), as serving engines read them."""
    return LONE_SURROGATE.sub("\ufffd", text)


def _is_turn(turn: object) -> bool:
    return isinstance(turn, dict) and turn.get("role") in ROLES and isinstance(turn.get("content"), str)
