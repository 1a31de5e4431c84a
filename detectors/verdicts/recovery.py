"""Is the fault over? Evidence, from the alarm on, against "the share beyond is still much of what it was then". Pure.

The e-detector of detectors/evidence/e_detector.py with the complementary bet: a draw within tolerance is what it bets
on, and M restarts at 0 at the alarm.

Null hypothesis: in each measured round since the alarm, given the past and the earlier draws of the round, the mean of
each score is at least ``still_beyond``; for an adapter, at least that share of the canary pool is still beyond.
Guarantee: the chance that M is at or above 1,000 in any of the first T measured rounds after the alarm is at most
T / 1,000, also given all that led to the alarm. What breaks it: draws that depend on the answers; and replicas, since
with one faulty of four no share of the pool is beyond in the rounds of the others. Where the null holds from a later
round on, the evidence starts from the M that is there, and the bound is (M + T) / 1,000.

Source: Shin, Ramdas & Rinaldo (2022), arXiv 2203.03532; docs/mathematics.md#alarm-and-recovery.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import bdtrc

from detectors.evidence.e_detector import count_factors, step

BETS = 8
# M at which the fault counts as over, and the least share that counts as a fault which is still there.
ENOUGH, LEAST_SHARE = 1000.0, 0.10
# A round in which nothing is wrong has so many draws beyond with at most this chance, or it is suspect.
RARE = 0.01


@dataclass(frozen=True, slots=True)
class DrawCounts:
    """The draws of one round: how many, how many of them beyond tolerance, and the share of them that is tolerated.

    drawn > 0; tolerated: in (0, 1). Of a base they are the draws of all its measured members together.
    """

    drawn: int
    beyond: int
    tolerated: float

    @property
    def share(self) -> float:
        return self.beyond / self.drawn

    @property
    def is_rare(self) -> bool:
        """Are so many draws beyond, or more, rare where nothing is wrong?

        Null hypothesis: given the past and the earlier draws of the round, each draw is beyond with at most the chance
        ``tolerated``. Guarantee: the chance of True is at most .01, because the count is then stochastically at most
        Bin(drawn, tolerated). What breaks it: draws that depend on the answers. Source:
        docs/mathematics.md#alarm-and-recovery.
        """
        return self.is_rarer_than(RARE)

    def is_rarer_than(self, chance: float) -> bool:
        """``is_rare`` with another chance than .01, in (0, 1)."""
        return self.beyond > 0 and float(bdtrc(self.beyond - 1, self.drawn, self.tolerated)) <= chance


def least_fault(tolerated: float) -> float:
    """The least share beyond that counts as a fault: .10, and clearly more than is tolerated. In (tolerated, 1)."""
    return max(LEAST_SHARE, min(2.0 * tolerated, (1.0 + tolerated) / 2.0))


@dataclass(frozen=True, slots=True)
class Recovery:
    """The e-detector of one open incident.

    still_beyond: the share of its null hypothesis, in (0, 1); m: M of each bet
    """

    still_beyond: float
    m: tuple[float, ...] = (0.0,) * BETS

    @classmethod
    def since(cls, alarm: DrawCounts) -> Recovery:
        """Half of what was beyond in the round of the alarm, and no less than what counts as a fault."""
        return cls(max(least_fault(alarm.tolerated), alarm.share / 2.0))

    def after(self, draws: DrawCounts) -> Recovery:
        """One measured round: "+1", and the factors 1 + g (still_beyond - S) of its draws."""
        m = np.array([self.m])
        within = np.array([draws.drawn - draws.beyond])
        step(m, count_factors(within, np.array([draws.drawn]), 1.0 - self.still_beyond, len(self.m)))
        return replace(self, m=tuple(m[0].tolist()))

    @property
    def shown(self) -> bool:
        """Is that share no longer beyond, by the evidence?"""
        return float(np.mean(self.m)) >= ENOUGH

    def to_json(self) -> dict[str, Any]:
        return {"still_beyond": self.still_beyond, "m": list(self.m)}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Recovery:
        return cls(stored["still_beyond"], tuple(stored["m"]))
