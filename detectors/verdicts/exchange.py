"""What is remembered by subject, some of it exchanged for what another monitor remembers of the same subjects."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


def exchanged(own: Mapping[Key, Value], others: Mapping[Key, Value], keys: Collection[Key]) -> dict[Key, Value]:
    """``own`` without these keys, and what ``others`` has under them."""
    kept = {key: value for key, value in own.items() if key not in keys}
    return kept | {key: value for key, value in others.items() if key in keys}
