"""Names as a sentence lists them: a headline has to end, on a base with a hundred adapters too."""

from __future__ import annotations

from collections.abc import Sequence

MOST_NAMED = 6


def first_names(names: Sequence[str]) -> str:
    """``a, b, c``; of more than MOST_NAMED the first ones and how many are left: ``a, b, ... and 94 more``."""
    hidden = len(names) - MOST_NAMED
    return ", ".join(names) if hidden <= 0 else f"{', '.join(names[:MOST_NAMED])} and {hidden} more"
