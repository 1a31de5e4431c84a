"""Canaries: the fixed prompts on which an adapter is asked, round after round, whether it still does its job.

A canary file is JSON Lines:
``{"id": "router-001", "messages": [{"role": "user", "content": "..."}], "expect": {...}}``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from probes.errors import Refused

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Canary:
    """One prompt. id: unique in its set; messages: chat turns, the last one the user's;

    expect: what the task's own check wants to see in the answer (ours to carry, never read here).
    """

    id: str
    messages: tuple[Mapping[str, str], ...]
    expect: Mapping[str, object] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        return {"id": self.id, "messages": [dict(turn) for turn in self.messages], "expect": dict(self.expect)}


@dataclass(frozen=True, slots=True)
class CanarySet:
    """Canaries in file order. content_hash: "sha256:..." over their content, whatever the file's layout."""

    canaries: tuple[Canary, ...]

    @property
    def content_hash(self) -> str:
        rows = [json.dumps(canary.as_json(), sort_keys=True, ensure_ascii=False) for canary in self.canaries]
        return "sha256:" + hashlib.sha256("\n".join(rows).encode()).hexdigest()


def read_canaries(path: Path) -> CanarySet:
    """The canaries of a JSON Lines file; blank lines are skipped.

    Raises Refused with the line's number for a line that is no canary, for an id seen before, and for an empty file.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"canary file {path}", error, "a readable UTF-8 file, one JSON object a line") from error
    return CanarySet(_without_duplicates(path, _numbered(text)))


def _numbered(text: str) -> Iterable[tuple[int, str]]:
    # Not splitlines(): a canary may hold a line separator (U+2028) inside its text.
    return ((number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip())


def _without_duplicates(path: Path, lines: Iterable[tuple[int, str]]) -> tuple[Canary, ...]:
    seen: dict[str, int] = {}
    canaries = []
    for number, line in lines:
        canary = _parse(line, f"{path}, line {number}")
        if canary.id in seen:
            raise Refused(f"{path}, line {number}", f"id {canary.id!r} of line {seen[canary.id]} again", "a new id")
        seen[canary.id] = number
        canaries.append(canary)
    if not canaries:
        raise Refused(f"canary file {path}", "no canaries", "at least one")
    return tuple(canaries)


def _parse(line: str, where: str) -> Canary:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise Refused(where, f"no JSON ({error})", '{"id": ..., "messages": [...], "expect": {...}}') from error
    if not isinstance(row, dict) or set(row) - {"id", "messages", "expect"}:
        raise Refused(where, sorted(row) if isinstance(row, dict) else type(row).__name__, "id, messages, expect only")
    name, expect = row.get("id"), row.get("expect", {})
    if not isinstance(name, str) or not name:
        raise Refused(where, f"id {name!r}", "a text that is not empty")
    if not isinstance(expect, dict):
        raise Refused(where, f"expect {expect!r}", "an object")
    return Canary(name, _turns(row.get("messages"), where), expect)


def _turns(messages: object, where: str) -> tuple[Mapping[str, str], ...]:
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise Refused(where, f"messages {messages!r}", "a list of chat turns")
    for turn in messages:
        if not isinstance(turn, dict) or set(turn) != {"role", "content"} or turn["role"] not in ROLES:
            raise Refused(where, f"turn {turn!r}", f"role (one of {', '.join(ROLES)}) and content")
        if not isinstance(turn["content"], str):
            raise Refused(where, f"content {turn['content']!r}", "text")
    if messages[-1]["role"] != "user":
        raise Refused(where, f"last turn of {messages[-1]['role']}", "the user's turn last: the adapter answers it")
    return tuple(messages)
