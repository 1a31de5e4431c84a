"""Canary files: the fixed prompts that are replayed each round to see whether an adapter still answers as accepted.

A canary file is JSON Lines:
``{"id": "router-001", "messages": [{"role": "user", "content": "..."}], "expect": {...}}``.
Messages here are what an operator corrects a file by: they name the line and never repeat more of it than needed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from probes.errors import Refused

ROLES = ("system", "user", "assistant")
SHAPE = '{"id": ..., "messages": [...], "expect": {...}}'
MOST_NAMED = 20  # faults or names that one message lists


@dataclass(frozen=True, slots=True)
class Canary:
    """One prompt.

    id: unique in its set; messages: chat turns, the last one the user's
    expect: what the canary's own check requires of the answer (read by answer_check.py only)
    where: file and line, for messages; "" where it comes from no file; not part of the canary's identity
    """

    id: str
    messages: tuple[Mapping[str, str], ...]
    expect: Mapping[str, object] = field(default_factory=dict)
    where: str = field(default="", compare=False)

    def as_json(self) -> dict[str, object]:
        return {"id": self.id, "messages": [dict(turn) for turn in self.messages], "expect": dict(self.expect)}


@dataclass(frozen=True, slots=True)
class CanarySet:
    """Canaries in file order. content_hash: "sha256:..." of their content, whatever the file's layout."""

    canaries: tuple[Canary, ...]

    @property
    def content_hash(self) -> str:
        rows = [json.dumps(canary.as_json(), sort_keys=True, ensure_ascii=False) for canary in self.canaries]
        return "sha256:" + hashlib.sha256("\n".join(rows).encode()).hexdigest()


def read_canaries(path: Path) -> CanarySet:
    """The canaries of a JSON Lines file; blank lines are skipped, and so is a byte order mark.

    Raises Refused with the number of every line that is no canary or repeats an id, and for an empty file.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        present = f"no UTF-8 at byte {error.start}"
        raise Refused(f"canary file {path}", present, "a UTF-8 file, one JSON object per line") from None
    except OSError as error:
        present = error.strerror or type(error).__name__
        raise Refused(f"canary file {path}", present, "a readable UTF-8 file, one JSON object per line") from None
    return CanarySet(_all_of(path, _numbered(text)))


def faulty(where: str, faults: Sequence[Refused]) -> Refused:
    """One error for several, each with its own place."""
    if len(faults) == 1:
        return faults[0]
    more = f"; and {len(faults) - MOST_NAMED} more" if len(faults) > MOST_NAMED else ""
    listed = "; ".join(f"{fault.what}: {fault.actual}, wanted {fault.wanted}" for fault in faults[:MOST_NAMED])
    return Refused(where, f"{len(faults)} faults ({listed}{more})", "none")


def _numbered(text: str) -> Iterable[tuple[int, str]]:
    # Not splitlines(): a canary may hold a line separator (U+2028) inside its text.
    return ((number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip())


def _all_of(path: Path, lines: Iterable[tuple[int, str]]) -> tuple[Canary, ...]:
    first_lines: dict[str, int] = {}
    canaries, faults = [], []
    for number, line in lines:
        where = f"{path}, line {number}"
        try:
            canary = _parse(line, where)
        except Refused as error:
            faults.append(error)
            continue
        if canary.id in first_lines:
            again = f"id {canary.id!r}, which line {first_lines[canary.id]} has already"
            faults.append(Refused(where, again, "an id of its own"))
        first_lines.setdefault(canary.id, number)
        canaries.append(canary)
    if faults:
        raise faulty(f"canary file {path}", faults)
    if not canaries:
        raise Refused(f"canary file {path}", "no canaries", "at least one")
    return tuple(canaries)


def _parse(line: str, where: str) -> Canary:
    row = json_object(line, where, SHAPE)
    if _has_lone_surrogate(row):
        present = "half a character (a lone surrogate, as when a text is cut inside an emoji)"
        raise Refused(where, present, "whole characters: as themselves, or as both \\u escapes of the surrogate pair")
    if set(row) - {"id", "messages", "expect"}:
        raise Refused(where, sorted(row), "id, messages, expect only")
    name, expect = row.get("id"), row.get("expect", {})
    if not isinstance(name, str) or not name:
        raise Refused(where, f"id {_short(name)}", "a string that is not empty")
    if not isinstance(expect, dict):
        raise Refused(where, f"expect {_short(expect)}", "an object")
    return Canary(name, _turns(row.get("messages"), where), expect, where)


def json_object(line: str, where: str, shape: str) -> dict[str, Any]:
    """One line as an object without duplicate keys. Raises Refused, which quotes nothing of the line but a key."""
    try:
        row = json.loads(line, object_pairs_hook=_without_duplicates, parse_constant=_reject_constant)
        if not isinstance(row, dict):
            raise Refused(where, f"a {type(row).__name__}", shape)
    except _DuplicateKey as error:
        name = f"key {error}" if re.fullmatch(r"[\w.-]{1,40}", str(error)) else "a key"
        raise Refused(where, f"{name} twice", "each key once: only the last of two would be read") from None
    except json.JSONDecodeError as error:
        raise Refused(where, f"no JSON ({error.msg} at character {error.pos + 1})", shape) from None
    except (ValueError, RecursionError) as error:  # too many digits, NaN, too deep nesting
        raise Refused(where, f"no JSON ({str(error).partition(';')[0]})", shape) from None
    return row


def _has_lone_surrogate(row: object) -> bool:
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


class _DuplicateKey(Exception):
    """A key that an object has twice."""


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for key, value in pairs:
        if key in row:
            raise _DuplicateKey(key)
        row[key] = value
    return row


def _reject_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not valid JSON")


def _turns(messages: object, where: str) -> tuple[Mapping[str, str], ...]:
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise Refused(where, f"messages {_short(messages)}", "a list of chat turns")
    for turn in messages:
        if not isinstance(turn, dict) or set(turn) != {"role", "content"} or turn["role"] not in ROLES:
            raise Refused(where, f"turn {_short(turn)}", f"role (one of {', '.join(ROLES)}) and content")
        if not isinstance(turn["content"], str):
            raise Refused(where, f"content {_short(turn['content'])}", "a string")
    if messages[-1]["role"] != "user":
        raise Refused(
            where, f"last turn of {messages[-1]['role']}", "a user's turn at the end, for the adapter to answer"
        )
    if not messages[-1]["content"].strip():
        raise Refused(where, "a user's turn without text", "text for the adapter to answer")
    return tuple(messages)


def _short(value: object) -> str:
    return repr(value)[:80]
