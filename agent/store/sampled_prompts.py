"""From rows of dashboards/sql/sampled_prompts.sql back to the chat turns that were asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from probes.canaries.canary_file import ROLES
from probes.canaries.sampled_prompts import AskedPrompt


@dataclass(frozen=True, slots=True, eq=False)
class StoredPrompts:
    """prompts: those whose text is stored; without_text: sampled requests without it; unclear: those of an earlier
    version whose turns cannot be distinguished in their text"""

    prompts: tuple[AskedPrompt, ...]
    without_text: int = 0
    unclear: int = 0


def stored_prompts(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> StoredPrompts:
    """rows: as the store gives them, or as JSON from a running agent has them"""
    read = [(row, _turns(row)) for row in (dict(zip(columns, values, strict=True)) for values in rows)]
    prompts = tuple(
        AskedPrompt(turns, int(row["requests"]), int(row["tokens"]), _vector(row["vector"]))
        for row, turns in read
        if turns
    )
    without = sum(int(row["requests"]) for row, _ in read if not row["prompt"])
    unclear = sum(int(row["requests"]) for row, turns in read if row["prompt"] and not turns)
    return StoredPrompts(prompts, without, unclear)


def _turns(row: Mapping[str, Any]) -> list[dict[str, str]]:
    """[] where the text is not there or cannot be divided."""
    text, roles, lengths = str(row["prompt"]), list(row["roles"]), [int(count) for count in row["turn_chars"]]
    if not text:
        return []
    return list(_divided(text, roles, lengths)) if roles else _single(text)


def _divided(text: str, roles: Sequence[str], lengths: Sequence[int]) -> Iterator[dict[str, str]]:
    """As ``traffic_rows.interaction_row`` puts it together; nothing where the lengths do not add up."""
    whole = sum(len(role) + len(": ") + length for role, length in zip(roles, lengths, strict=True)) + len(roles) - 1
    if whole != len(text):
        return
    begin = 0
    for role, length in zip(roles, lengths, strict=True):
        begin += len(role) + len(": ")
        yield {"role": str(role), "content": text[begin : begin + length]}
        begin += length + 1


def _single(text: str) -> list[dict[str, str]]:
    """Of an earlier version: one turn of the user, and no line in it that could begin another turn."""
    opening = "user: "
    others = any(line.startswith(tuple(f"{role}: " for role in ROLES)) for line in text.split("\n")[1:])
    return [{"role": "user", "content": text[len(opening) :]}] if text.startswith(opening) and not others else []


def _vector(values: Sequence[float]) -> Any:
    return np.asarray(values, np.float32) if len(values) else None
