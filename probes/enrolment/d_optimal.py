"""Which canaries are worth their tokens? Greedy D-optimal design over their Fisher information on each kind of fault.

Pure. ``pool.py`` sets a random held-out half aside first and chooses the pool from the rest. The detectors' null
hypothesis is not affected by the choice: it is about the share *of the pool* that is beyond tolerance, and each round
draws at random from that pool, however its canaries were chosen. A chosen pool is no random sample of prompts, however,
so the interval of retention rests on the held-out half alone.

Source: D-optimal design, Fedorov (1972); greedy gain by log det, Krause & Guestrin (2008), JMLR 9. Departs: the gain is
taken per token, those of the prompt included, because that is what a replay costs; and the unit of a displacement is
what the score allows, because a score is 0 or 1 and no larger for a larger displacement.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from probes.errors import Refused

Doubles = NDArray[np.float64]
# Share of the candidates' mean information that is added before anything is chosen: the information of the first canary
# alone is singular in some directions, and its log det would be minus infinity.
RIDGE = 1e-3


def information(directions: Doubles, allowed: float) -> Doubles:
    """(D, D) Fisher information of one canary on D directions of displacement: J^T J / allowed^2.

    directions: (N, D) the displacements as columns, in the coordinates of the weighted inner product
    (detectors.canaries.retention.PreparedReference.vector), one unit of each fault away from healthy
    allowed: size of the displacement that the score allows on this canary, noise included, > 0

    On the diagonal: the square of how many times its allowance one unit of that fault is. It ranks canaries, without
    guarantee for faults that are none of the directions.
    """
    return directions.T @ directions / allowed**2


def select_canaries(features: Doubles, lengths: Sequence[int], budget_tokens: int, at_least: int) -> list[int]:
    """Indices of the chosen canaries, in the order in which they were chosen.

    features: (n, D, D) ``information`` of each candidate; lengths: (n,) tokens that each costs, >= 1
    budget_tokens: of the whole pool; at_least: fewest canaries, for which tokens are reserved at every step

    Each step takes the candidate whose gain in log det of the summed information per token is largest among those that
    still fit. Raises Refused when the budget cannot hold ``at_least`` of the shortest.
    """
    tokens = np.asarray(lengths, np.int64)
    _check_room(tokens, budget_tokens, at_least)
    total = _ridge(features)
    remaining = budget_tokens
    chosen: list[int] = []
    waiting = np.arange(len(tokens))
    while len(waiting):
        fits = waiting[_fits(tokens[waiting], remaining, at_least - len(chosen))]
        if not len(fits):
            break
        best = int(fits[np.argmax(_gains(total, features[fits]) / tokens[fits])])
        chosen.append(best)
        total, remaining = total + features[best], remaining - int(tokens[best])
        waiting = waiting[waiting != best]
    return chosen


def _check_room(tokens: NDArray[np.int64], budget: int, at_least: int) -> None:
    least = int(np.sort(tokens)[:at_least].sum())
    if len(tokens) < at_least or least > budget:
        present = f"{len(tokens)} candidates in {budget} tokens"
        raise Refused("canaries to choose from", present, f"{at_least} or more, which take {least} tokens at least")


def _fits(tokens: NDArray[np.int64], remaining: int, needed: int) -> NDArray[np.bool_]:
    """Which of these leave tokens for the ``needed - 1`` shortest others?"""
    if needed <= 1:
        return tokens <= remaining
    order = np.argsort(tokens, kind="stable")
    shortest = tokens[order]
    room = np.full(len(tokens), int(shortest[: needed - 1].sum()))
    # For a candidate that is itself among those shortest, the next one counts in its place.
    room[order[: needed - 1]] += int(shortest[needed - 1]) - shortest[: needed - 1] if len(shortest) >= needed else 0
    return tokens + room <= remaining


def _gains(total: Doubles, features: Doubles) -> Doubles:
    gains: Doubles = np.linalg.slogdet(total + features)[1] - np.linalg.slogdet(total)[1]
    return gains


def _ridge(features: Doubles) -> Doubles:
    """A share of the candidates' mean information in each direction, so that no direction's unit matters."""
    mean = np.diagonal(features, axis1=1, axis2=2).mean(axis=0)
    return np.diag(RIDGE * np.where(mean > 0, mean, 1.0))
