"""Which canaries are worth their tokens? Greedy D-optimal choice over what each of them tells of each kind of fault.

Pure. ``enrol.py`` keeps a random held-out half back first and chooses the pool from the rest. The detectors' null
hypothesis survives the choice: it speaks of the share *of the pool* that is beyond tolerance, and each round's draws
are random from that pool, whatever put a canary into it. What a chosen pool is not is a sample of prompts, so the
interval of retention rests on the held-out half alone.

Source: D-optimal design, Fedorov (1972); greedy gain by log det, Krause & Guestrin (2008), JMLR 9. Departs: the gain is
taken per scored token, because the budget of a round is tokens and not canaries.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from probes.errors import Refused

Doubles = NDArray[np.float64]
# Of the candidates' mean information, added to it before anything is chosen: the first canary alone cannot tell all
# directions apart, and its log det would be minus infinity.
RIDGE = 1e-3


def information(directions: Doubles, noise: float) -> Doubles:
    """(D, D) what one canary tells of D directions of displacement: J^T J / noise^2, its Fisher matrix.

    directions: (N, D) the displacements as columns of the weighted inner product (retention.PreparedReference.vector),
    one unit of each fault apart from healthy; noise: standard deviation of a coordinate under benign change, > 0

    Exact for independent normal noise; with another law it ranks canaries and promises nothing.
    """
    return directions.T @ directions / noise**2


def select_canaries(features: Doubles, lengths: Sequence[int], budget_tokens: int, at_least: int) -> list[int]:
    """Indices of the chosen canaries, in the order in which they were chosen.

    features: (n, D, D) ``information`` of each candidate; lengths: (n,) scored tokens of each, >= 1
    budget_tokens: of the whole pool; at_least: fewest canaries, for which room is kept at every step

    Each step takes the candidate whose gain in log det of the summed information per token is largest among those that
    still fit. Raises Refused when the budget cannot hold ``at_least`` of the shortest.
    """
    tokens = np.asarray(lengths, np.int64)
    _check_room(tokens, budget_tokens, at_least)
    total = _ridge(features)
    left = budget_tokens
    chosen: list[int] = []
    waiting = np.arange(len(tokens))
    while len(waiting):
        fits = waiting[_fits(tokens[waiting], left, at_least - len(chosen))]
        if not len(fits):
            break
        best = int(fits[np.argmax(_gains(total, features[fits]) / tokens[fits])])
        chosen.append(best)
        total, left = total + features[best], left - int(tokens[best])
        waiting = waiting[waiting != best]
    return chosen


def tokens_needed(
    features: Doubles, lengths: Sequence[int], order: Sequence[int], wanted: float, direction: int | None = None
) -> int | None:
    """Scored tokens until the canaries, taken in this order, tell as much as wanted; None where they never do.

    order: indices, ``select_canaries``' or a random permutation to compare it with
    wanted: information in any direction, and in a direction along which one unit of fault moves the answers by one
    standard deviation of noise that is 1: the square of the signal-to-noise ratio of that fault
    direction: of which one; None takes the geometric mean over all of them, det^(1/D)

    Equal information is equal power of a likelihood-ratio test of that fault, so the ratio of two such counts is the
    ratio of tokens for the same power.
    """
    taken = np.asarray(order, np.int64)
    summed = np.cumsum(features[taken], axis=0)
    seen = summed[:, direction, direction] if direction is not None else _geometric_mean(summed)
    reached = np.flatnonzero(seen >= wanted)
    return int(np.cumsum(np.asarray(lengths)[taken])[reached[0]]) if len(reached) else None


def _check_room(tokens: NDArray[np.int64], budget: int, at_least: int) -> None:
    least = int(np.sort(tokens)[:at_least].sum())
    if len(tokens) < at_least or least > budget:
        seen = f"{len(tokens)} candidates in {budget} tokens"
        raise Refused("canaries to choose from", seen, f"{at_least} or more, which take {least} tokens at least")


def _fits(tokens: NDArray[np.int64], left: int, still: int) -> NDArray[np.bool_]:
    """Which of these leave room for the ``still - 1`` shortest others?"""
    if still <= 1:
        return tokens <= left
    order = np.argsort(tokens, kind="stable")
    shortest = tokens[order]
    room = np.full(len(tokens), int(shortest[: still - 1].sum()))
    # A candidate that is itself among those shortest makes way for the next one.
    room[order[: still - 1]] += int(shortest[still - 1]) - shortest[: still - 1] if len(shortest) >= still else 0
    return tokens + room <= left


def _gains(total: Doubles, features: Doubles) -> Doubles:
    gains: Doubles = np.linalg.slogdet(total + features)[1] - np.linalg.slogdet(total)[1]
    return gains


def _ridge(features: Doubles) -> Doubles:
    """A share of the candidates' mean information in each direction, so that no direction's unit matters."""
    mean = np.diagonal(features, axis1=1, axis2=2).mean(axis=0)
    return np.diag(RIDGE * np.where(mean > 0, mean, 1.0))


def _geometric_mean(summed: Doubles) -> Doubles:
    sign, log_det = np.linalg.slogdet(summed)
    mean: Doubles = np.where(sign > 0, np.exp(log_det / summed.shape[-1]), 0.0)
    return mean
