"""What does an adapter still add over its base on its own task, and would the base alone do? Pure.

Everything rests on the canaries' own checks: each canary's answer passes or not, of the accepted adapter (its golden
answer), of the adapter now, and of the live base without it. The same canaries are put to all, so differences are
paired.

Two questions, kept apart:

- Gain: P(adapter passes) - P(base passes). Null of its interval: the canaries are a sample of prompts like those that
  are served. Guarantee: at least 1 - alpha for any n, because it is the difference of two exact binomial intervals
  (Clopper and Pearson 1934) of alpha / 2 each, of the canaries that only the adapter passes and of those that only the
  base does; it is wider than an asymptotic one. What breaks it: canaries that were chosen because adapter and base
  differ on them, and texts that the adapter was trained on.
- Retire: of the canaries that the accepted adapter passes, the base alone fails at most a share ``margin``. Null: it
  fails more. Guarantee: said of a base that fails a share ``margin`` or more with a chance of at most alpha, by the
  exact one-sided bound. It is asked of the accepted answers and not of the adapter as it is now: an adapter that is
  broken fails where the base fails, and would look superfluous. Canaries that were chosen because the two differ make
  it harder to say and never easier. Asked again of the same base it is the same answer, not another chance to err.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from detectors.errors import ShapeMismatch

Passes = NDArray[np.bool_]


class Worth(StrEnum):
    """What follows for the adapter. Values are stored: they stay."""

    BASE_PASSES = "base_passes"  # retire: the base alone passes what the accepted adapter passed
    ADDS = "adds"  # it adds something, surely
    LOST = "lost"  # it fails what it passed when it was accepted, and the base does not do its task: broken
    UNCLEAR = "unclear"  # none of these can be said with so many canaries


@dataclass(frozen=True, slots=True)
class WorthRules:
    """margin: share of what the accepted adapter gets right that the base alone may get wrong; alpha: chance of error

    lost: share of it that the adapter itself may get wrong before it counts as lost
    """

    margin: float = 0.1
    alpha: float = 0.05
    lost: float = 0.03

    @property
    def canaries_needed(self) -> int:
        """With fewer checked canaries a base that passes all of them cannot be said to pass."""
        return math.ceil(math.log(self.alpha) / math.log1p(-self.margin))


@dataclass(frozen=True, slots=True)
class Difference:
    """A paired difference of pass rates in [-1, 1], with its interval; n: canaries"""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class CheckedAnswers:
    """Of the same n canaries, each (n,): does the answer pass the canary's own check?

    accepted: the golden answer; adapter, base: as they answer now
    base_before: the accepted base without the adapter, None where it is not at hand
    """

    accepted: Passes
    adapter: Passes
    base: Passes
    base_before: Passes | None = None

    def __post_init__(self) -> None:
        if len({len(side) for side in (self.accepted, self.adapter, self.base)}) != 1:
            raise ShapeMismatch(
                "checked answers of one set of canaries", "sides of other lengths", "one answer for each"
            )


@dataclass(frozen=True, slots=True)
class Assessment:
    """checked: canaries whose check can be read; *_right: of these, how many pass

    gain: adapter now over the base now; original: the accepted adapter over the accepted base, None where that is not
    at hand; base_loss: share of what the accepted adapter passes that the base fails, with its one-sided upper bound
    """

    worth: Worth
    checked: int
    accepted_right: int
    adapter_right: int
    base_right: int
    gain: Difference
    base_loss: float
    base_loss_high: float
    original: Difference | None = None

    @property
    def left(self) -> tuple[float, float, float] | None:
        """Share of the original gain that is left, with its range: None where the original is not known, or may be 0.

        The range holds with 1 - 2 alpha: it is made of the ends of both intervals.
        """
        before = self.original
        if before is None or before.low <= 0:
            return None
        ends = [end / by for end in (self.gain.low, self.gain.high) for by in (before.low, before.high)]
        return self.gain.mean / before.mean, min(ends), max(ends)


def assess(answers: CheckedAnswers, rules: WorthRules = WorthRules()) -> Assessment:
    """What these answers say. No canary: UNCLEAR, with intervals that hold everything."""
    accepted = np.asarray(answers.accepted, bool)
    adapter, base = np.asarray(answers.adapter, bool), np.asarray(answers.base, bool)
    right = int(accepted.sum())
    base_fails, adapter_fails = int((accepted & ~base).sum()), int((accepted & ~adapter).sum())
    high = upper_bound(base_fails, right, rules.alpha)
    gain = paired_difference(adapter, base, rules.alpha)
    before = answers.base_before
    return Assessment(
        worth=_worth(gain, high, lower_bound(adapter_fails, right, rules.alpha), rules),
        checked=len(accepted),
        accepted_right=right,
        adapter_right=int(adapter.sum()),
        base_right=int(base.sum()),
        gain=gain,
        base_loss=base_fails / right if right else math.nan,
        base_loss_high=high,
        original=None if before is None else paired_difference(accepted, np.asarray(before, bool), rules.alpha),
    )


def paired_difference(first: Passes, second: Passes, alpha: float = 0.05) -> Difference:
    """P(first) - P(second) from pairs, with the interval of the module's text."""
    n = len(first)
    if not n:
        return Difference(math.nan, -1.0, 1.0, 0)
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    # Each of the two exact intervals has alpha / 2, a quarter of alpha at either end.
    at = alpha / 4
    low = lower_bound(only_first, n, at) - upper_bound(only_second, n, at)
    high = upper_bound(only_first, n, at) - lower_bound(only_second, n, at)
    return Difference((only_first - only_second) / n, low, high, n)


def upper_bound(count: int, n: int, alpha: float) -> float:
    """One-sided: a share above it would give so few with a chance below alpha. 1 of none."""
    return 1.0 if count >= n else float(betaincinv(count + 1, n - count, 1 - alpha))


def lower_bound(count: int, n: int, alpha: float) -> float:
    """Likewise below. 0 of none."""
    return 0.0 if count <= 0 else float(betaincinv(count, n - count + 1, alpha))


def _worth(gain: Difference, base_loss_high: float, adapter_loss_low: float, rules: WorthRules) -> Worth:
    if base_loss_high <= rules.margin:
        return Worth.BASE_PASSES
    if adapter_loss_low > rules.lost:
        return Worth.LOST
    return Worth.ADDS if gain.low > 0 else Worth.UNCLEAR
