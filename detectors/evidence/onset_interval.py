"""Between which rounds did a fault begin? A 95 % confidence set for the changepoint, from scores of 0 and 1.

For each kept round t one null hypothesis, H_t: the fault began with round t. Two test supermartingales can reject it:
one against "healthy before t", if it is at 2 / alpha or above in the round before t; one against "faulty from t on", if
it ever is. The set is the rounds that are not rejected; what is reported is its hull.

Null hypothesis H_t: given the past and the earlier draws of the round, the mean of each score is at most ``share`` in
each measured round before t, and at least ``least_fault`` in each one from t on.
Guarantee: for each round t that the fault may have begun with, P(an alarm while t is kept, and t not in the set) is at
most alpha, by whatever rule the alarm came; given no alarm before t it is at most alpha / P(no alarm before t).
What breaks it: a share between the two, as of a fault that grows; one that comes and goes, or shows in the rounds of
one replica alone; draws that depend on the answers; a beginning that depends on the draws; an alarm so late that t is
no longer kept.

Source: docs/mathematics.md#onset-interval, by Ville's inequality.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from detectors.evidence.e_detector import SMALLEST, count_factors

Doubles = NDArray[np.float64]

ALPHA = 0.05
# Rounds that are remembered, some 4 KB of saved state: of 1,000 faults of a tenth of the draws, the least, about 10
# alarm later than that (docs/mathematics.md#onset-interval).
KEPT_ROUNDS = 128
# Stakes from the largest down. A fault of twice the tolerated share calls for a sixteenth of the largest stake against
# "healthy"; a healthy share of half the least fault for half of the largest against "faulty".
BETS_ON_FAULTY, BETS_ON_HEALTHY = 6, 3


class ScoredRound(NamedTuple):
    """One measured round of one subject: so many of its scores are 1.

    at: of its last answer, seconds since the epoch; drawn > 0
    share: of the scores that may be 1 where nothing is wrong
    """

    at: float
    drawn: int
    beyond: int
    share: float


class OnsetInterval(NamedTuple):
    """The fault began after the one time and by the other, seconds since the epoch; after is None for "or earlier"."""

    after: float | None
    by: float


def with_round(kept: tuple[ScoredRound, ...], latest: ScoredRound) -> tuple[ScoredRound, ...]:
    """The rounds to remember from now on. Those with another tolerated share had another null hypothesis."""
    comparable = kept if not kept or kept[-1].share == latest.share else ()
    return (*comparable, latest)[-KEPT_ROUNDS:]


def onset_interval(rounds: Sequence[ScoredRound], least_fault: float) -> OnsetInterval | None:
    """The hull of the confidence set at an alarm in the last of these rounds.

    rounds: in order, of one tolerated share; least_fault: the least share that counts as a fault, in (share, 1)

    Returns None where these scores do not date the fault: "healthy in all of them" is not rejected either, as after an
    alarm of a detector with other scores, or every round is, which the model of one lasting fault does not explain.
    """
    if not rounds:
        return None
    candidates = onset_candidates(
        np.array([round.beyond for round in rounds]),
        np.array([round.drawn for round in rounds]),
        rounds[-1].share,
        least_fault,
    )
    if candidates[-1] or not candidates.any():
        return None
    first, last = np.flatnonzero(candidates)[[0, -1]]
    return OnsetInterval(rounds[first - 1].at if first else None, rounds[last].at)


def onset_candidates(
    beyond: NDArray[np.int64], drawn: NDArray[np.int64], share: float, least_fault: float
) -> NDArray[np.bool_]:
    """(N + 1,) with which of N rounds may the fault have begun; at N: may it not have begun yet?

    beyond, drawn: (N,) scores that are 1, and scores, of each round
    """
    faulty = _log_wealth(count_factors(drawn - beyond, drawn, 1.0 - least_fault, BETS_ON_HEALTHY))
    healthy = _log_wealth(count_factors(beyond, drawn, share, BETS_ON_FAULTY))
    # Before the first round, and from after the last one, there is nothing to bet on.
    against_faulty, against_healthy = np.append(faulty.max(axis=1), 0.0), np.append(0.0, _over_starts(healthy))
    candidates: NDArray[np.bool_] = np.maximum(against_faulty, against_healthy) < math.log(2.0 / ALPHA)
    return candidates


def _over_starts(log_wealth: Doubles) -> Doubles:
    """(N,) ln of the wealth after each round, that of a start k rounds before its end weighted by 1 / (k (k + 1)).

    The weights are 1 together over all k, so that rounds which are not kept only lower the sum.
    """
    rounds = np.arange(len(log_wealth))
    k = np.maximum(rounds[None, :] - rounds[:, None] + 1.0, 1.0)
    together: Doubles = logsumexp(log_wealth - np.log(k * (k + 1.0)), axis=0)
    return together


def _log_wealth(factors: Doubles) -> Doubles:
    """(N, N) ln of the mean over bets of the product of the factors of rounds s to r; -inf where r is before s.

    factors: (N, G)
    """
    # What is below the smallest factor is 0 by the look-up, and has no logarithm.
    logs = np.log(np.maximum(factors, SMALLEST)).T
    until = np.cumsum(logs, axis=1)
    of_bets = until[:, None, :] - (until - logs)[:, :, None]
    wealth: Doubles = np.logaddexp.reduce(of_bets, axis=0) - math.log(len(logs))
    return np.where(np.tri(len(factors), dtype=np.bool_).T, wealth, -np.inf)
