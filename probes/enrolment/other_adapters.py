"""Which other adapters are recorded on an adapter's canaries, so that a mix-up with them can be named?

Each costs a pass over all canaries, and each adapter of a base would be recorded on those of every other one: with all
of them, enrolling a base takes time quadratic in their number.
"""

from __future__ import annotations

from collections.abc import Sequence

from detectors.diagnosis.name_encoding import is_earlier_version
from probes.runner import Comparing, LoraSettings, Runner

MOST = 4
# Cosines that differ by less are alike: those of adapters that have nothing to do with each other are all about 0.
STEP = 0.01


def most_alike(runner: Runner, adapter: str, others: Sequence[str], most: int = MOST) -> tuple[str, ...]:
    """The other adapters to record, in the order given: earlier versions of this one, and of the rest the most alike.

    others: names of the other registered adapters; most: how many are recorded, earlier versions not counted

    By the likeness of what they change in the weights, in steps of ``STEP``; of those that are equally like it, the
    ones with the same rank and alpha first, then in the order given. By the order alone for a runner that cannot
    compare adapters.
    """
    earlier = [other for other in others if is_earlier_version(other, adapter)]
    rest = [other for other in others if other not in earlier]
    ranked = sorted(rest, key=lambda other: _unlike(runner, adapter, other))
    return tuple(other for other in others if other in (*earlier, *ranked[:most]))


def left_out(others: Sequence[str], recorded: Sequence[str]) -> tuple[str, ...]:
    """In words, which other adapters are not recorded; empty where all are."""
    names = [other for other in others if other not in recorded]
    return (f"a mix-up with {', '.join(names)}: the other adapters most like this one are recorded",) if names else ()


def _unlike(runner: Runner, adapter: str, other: str) -> tuple[float, bool]:
    """Smaller is more alike."""
    alike = runner.likeness(adapter, other) if isinstance(runner, Comparing) else 0.0
    same = isinstance(runner, LoraSettings) and runner.rank_and_alpha(adapter) == runner.rank_and_alpha(other)
    return -round(alike / STEP), not same
