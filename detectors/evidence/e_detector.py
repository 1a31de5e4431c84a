"""The e-detector: evidence that may be looked at after every round, for any number of streams at once.

One process for each bet g, ``M <- prod_draws (1 + g (S - share)) * (M + 1)``, started at 0; the alarm is on the mean
over bets.

Null hypothesis: given the past and the earlier draws of the round, the mean of each score is at most ``share``.
Guarantee: the average run length to ``mean M >= A`` is at least A rounds, and P(alarm by round T) <= T / A.
What breaks it: scores whose mean given the past exceeds ``share`` (a marginal mean is not enough), a bet chosen from
the score it is placed on, or one "+1" a draw where A was counted in rounds.

The same process is here twice. ``advance`` and ``level`` are the reference: the formula, on ln M. ``step`` and ``nats``
are what runs in production (e_process_bank.py): on M itself, in place, with factors looked up by how many draws were
beyond. tests/detectors/evidence/test_e_detector.py holds the two equal. ``step_cusum`` only dates the onset.

Source: Shin, Ramdas & Rinaldo (2022), "E-detectors", arXiv 2203.03532. Departs: a fixed grid of bets averaged as
processes, never as factors, and one "+1" a round for all draws of that round; M is capped at e^300 (lowering M keeps
every guarantee).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from detectors.errors import Refused, ShapeMismatch

Doubles = NDArray[np.float64]
Scores = NDArray[np.bool_] | NDArray[np.float64]
Counts = NDArray[np.int64]

# Fraction of the largest possible bet, 1 / share, which one healthy draw would ruin permanently.
TOP = 0.95

# Largest M and largest factor of one round: their product is a double still, and no page needs a tenth of it.
LOG_LARGEST = 300.0
LARGEST = math.exp(LOG_LARGEST)
# A factor below this is 0: numbers that small make arithmetic slow, and lowering M is allowed.
SMALLEST = 1e-290


def grid(share: float, bets: int = 8) -> Doubles:
    """(bets,) stakes g: the top .95 / share, then halving. A top bet gains ``ln(1 / share)`` nats a draw beyond."""
    if not 0 < share < 1 or bets < 1:
        raise Refused("grid of bets", f"share {share}, {bets} bets", "share in (0, 1) and at least one bet")
    stakes: Doubles = TOP / share * 0.5 ** np.arange(bets, dtype=np.float64)
    return stakes


def fresh(streams: int, bets: int = 8) -> Doubles:
    """(streams, bets) ln M before the first round: M = 0."""
    return np.full((streams, bets), -np.inf)


def advance(log_m: Doubles, scores: Scores, share: float, mask: NDArray[np.bool_] | None = None) -> Doubles:
    """ln M after one round, the reference.

    log_m: (streams, G) ln M before, -inf where M is 0
    scores: (streams, n) in [0, 1]; bool is the fast way
    mask: (streams, n) which of them are measured, all of them when None; a stream without any keeps its M, with no "+1"

    Returns (streams, G), free of NaN. Raises ShapeMismatch.
    """
    if scores.ndim != 2 or scores.shape[0] != log_m.shape[0] or (mask is not None and mask.shape != scores.shape):
        raise ShapeMismatch("scores", scores.shape, f"({log_m.shape[0]}, draws), and the mask alike")
    present: NDArray[np.bool_] = np.ones(scores.shape, dtype=np.bool_) if mask is None else mask
    factor = _log_factor(scores, present, grid(share, log_m.shape[1]), share)
    measured = np.count_nonzero(present, axis=1) > 0
    return np.where(measured[:, None], np.logaddexp(log_m, 0.0) + factor, log_m)


def level(log_m: Doubles) -> Doubles:
    """(streams,) ln of the mean of M over bets, the reference; -inf where M is 0."""
    top = log_m.max(axis=1)
    safe = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return safe + np.log(np.exp(log_m - safe[:, None]).sum(axis=1)) - math.log(log_m.shape[1])


def count_factors(ones: Counts, draws: Counts | int, share: float, bets: int = 8) -> Doubles:
    """(streams, bets) by what one round multiplies M, from how many of its ``draws`` were beyond, ``ones``.

    draws: (streams,), or one number for all of them, which is the fast way: a look-up
    """
    if isinstance(draws, int):
        return _table(draws, share, bets).take(ones, axis=0, mode="clip")
    return _of_counts(ones[:, None], draws[:, None], share, bets)


def value_factors(scores: Doubles, share: float, bets: int = 8) -> Doubles:
    """(streams, bets) likewise from scores of (streams, n) in [0, 1]."""
    present = np.ones(scores.shape, dtype=np.bool_)
    return _factors(_log_factor(scores, present, grid(share, bets), share))


def step(m: Doubles, factors: Doubles) -> None:
    """One round of M, in place: ``M <- factor * (M + 1)``. m, factors: (streams, bets), M and not its logarithm."""
    np.add(m, 1.0, out=m)
    np.multiply(m, factors, out=m)
    np.minimum(m, LARGEST, out=m)


def step_cusum(w: Doubles, factors: Doubles) -> NDArray[np.bool_]:
    """One round of the CUSUM statistic, in place: ``W <- max(W, 1) * factor``. w, factors: (streams, bets).

    Returns (streams, bets): where W restarted with this round, because it was at most 1 before it. The round of the
    last restart is where the fault most likely began: W is the largest product of factors over all rounds in which the
    fault could have begun. It decides nothing and has no guarantee; M alone does. Source: Page (1954), "Continuous
    inspection schemes", Biometrika 41; docs/mathematics.md#e-detector.
    """
    restarted: NDArray[np.bool_] = w <= 1.0
    np.maximum(w, 1.0, out=w)
    np.multiply(w, factors, out=w)
    np.minimum(w, LARGEST, out=w)
    return restarted


def nats(m: Doubles) -> Doubles:
    """(streams,) ln of the mean of M over bets, at least that of the smallest number above 0 that M can have."""
    logs: Doubles = np.log(np.maximum(m.mean(axis=1), SMALLEST))
    return logs


@lru_cache(maxsize=256)
def _table(draws: int, share: float, bets: int) -> Doubles:
    """(draws + 1, bets) factors of a round by the number of draws beyond."""
    return _of_counts(np.arange(draws + 1)[:, None], np.int64(draws), share, bets)


def _of_counts(ones: Counts, draws: Counts | np.int64, share: float, bets: int) -> Doubles:
    g = grid(share, bets)
    return _factors(ones * np.log1p(g * (1.0 - share)) + (draws - ones) * np.log1p(-g * share))


def _factors(logs: Doubles) -> Doubles:
    factors = np.exp(np.minimum(logs, LOG_LARGEST))
    return np.where(factors < SMALLEST, 0.0, factors)


def _log_factor(scores: Scores, present: NDArray[np.bool_], g: Doubles, share: float) -> Doubles:
    """(streams, G) sum over draws of ln(1 + g (S - share)); for 0/1 scores two counts are enough."""
    if scores.dtype == np.bool_:
        ones = np.count_nonzero(np.logical_and(scores, present), axis=1)[:, None]
        zeros = np.count_nonzero(present, axis=1)[:, None] - ones
        return ones * np.log1p(g * (1.0 - share)) + zeros * np.log1p(-g * share)
    terms = np.log1p(g * (np.where(present, scores, share) - share)[:, :, None])
    total: Doubles = terms.sum(axis=1)
    return total
