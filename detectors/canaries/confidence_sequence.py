"""How much of the adapter was left over all rounds so far? An interval that may be looked at after every round.

Observations: the retention of each held-out canary replayed, clipped to [-.5, 1.5] and mapped onto [0, 1]. Before a
round a bet and a guess of the mean are fixed from the rounds before; every canary of the round gets that same bet.

What it covers: with probability 95 %, at all rounds at once, the mean over the rounds since it began, weighted by bet
and number of canaries, of the round's mean (clipped) retention over the whole held-out pool. No distribution is
assumed: the state of the world may change with every round and depend on all before. Clipping changes nothing while
single canaries stay within the bounds; beyond them it pulls towards the middle.

Why it holds: for one canary drawn from the pool, ``exp(bet (x - mean) - psi(bet) 4 (x - guess)^2)`` has a mean of at
most 1. A round draws its canaries without replacement; the product over them is the exponential, which is convex, of a
sum over such a draw, and has no larger a mean than with replacement (Hoeffding 1963, theorem 4). The product over
rounds is then a supermartingale, and Ville's inequality bounds it at all rounds at once, on each side at half of the
5 %.

What breaks it: a bet or a guess that was computed from the round itself (the interval would come out too narrow), and
held-out canaries picked for their answers. Its state is saved: a renamed field would not be read back.

Source: Waudby-Smith & Ramdas (2024), "Estimating means of bounded random variables by betting", JRSS-B 86(1), theorem 2
(predictable plug-in empirical Bernstein). Departs: one bet a round instead of one an observation, the weighted mean
over changing means as what is covered, and no intersection over time, which needs a mean that stays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from detectors.canaries.tolerance import blocked_by
from detectors.records import CanarySplit, Interval, Round

LOWEST, HIGHEST = -0.5, 1.5
WIDTH = HIGHEST - LOWEST
ALPHA = 0.05
# Of the bet, whose penalty psi is infinite at 1; the source advises a half or three quarters.
LARGEST_BET = 0.75
LOG_PRICE = math.log(2.0 / ALPHA)


@dataclass(frozen=True, slots=True)
class Confidence:
    """The state kept for one adapter, of observations x in [0, 1].

    n: canaries; total: sum of x; spread: sum of (x - guess)^2; weight: sum of bets; weighted: sum of bet * x
    penalty: sum of psi(bet) 4 (x - guess)^2, bet and guess being those of each x's round
    """

    n: int = 0
    total: float = 0.0
    spread: float = 0.0
    weight: float = 0.0
    weighted: float = 0.0
    penalty: float = 0.0

    @property
    def guess(self) -> float:
        """The mean of the next round, from the past alone: the middle counts as one observation."""
        return (0.5 + self.total) / (self.n + 1)

    def bet(self, coming: int) -> float:
        """The bet on each of the ``coming`` canaries of the next round, in (0, .75], from the past alone."""
        t = self.n + coming
        variance = (0.25 + self.spread) / (self.n + 1)
        return min(math.sqrt(2.0 * LOG_PRICE / (variance * t * math.log1p(t))), LARGEST_BET)

    def after(self, retentions: Sequence[float]) -> Confidence:
        """The state after a round with these retentions of held-out canaries; unchanged where there are none."""
        if not len(retentions):
            return self
        return self.placed(retentions, self.bet(len(retentions)), self.guess)

    def placed(self, retentions: Sequence[float], bet: float, guess: float) -> Confidence:
        """The same with a given bet and guess; valid only if neither depends on the round."""
        x = (np.minimum(np.maximum(np.asarray(retentions, np.float64), LOWEST), HIGHEST) - LOWEST) / WIDTH
        apart = float(np.sum((x - guess) ** 2))
        return Confidence(
            n=self.n + len(x),
            total=self.total + float(x.sum()),
            spread=self.spread + apart,
            weight=self.weight + bet * len(x),
            weighted=self.weighted + bet * float(x.sum()),
            penalty=self.penalty + _psi(bet) * 4.0 * apart,
        )

    def interval(self) -> Interval | None:
        """Weighted mean retention with its bounds, within [-.5, 1.5]; None before the first canary."""
        if not self.n:
            return None
        mean, half = self.weighted / self.weight, (LOG_PRICE + self.penalty) / self.weight
        low, high = max(mean - half, 0.0), min(mean + half, 1.0)
        return Interval(LOWEST + WIDTH * mean, LOWEST + WIDTH * low, LOWEST + WIDTH * high, self.n)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Confidence:
        return cls(**stored)


def held_out_retentions(round: Round) -> tuple[float, ...]:
    """Retentions of the held-out canaries of a round; none where the round has no measurements."""
    if blocked_by(round) is not None:
        return ()
    return tuple(m.retention for m in round.measurements if m.comparison.reference.split is CanarySplit.HELD_OUT)


def _psi(bet: float) -> float:
    """The price of a bet, per 4 (x - guess)^2."""
    return (-math.log1p(-bet) - bet) / 4.0
