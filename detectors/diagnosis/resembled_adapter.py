"""Which adapter do answers resemble that should not be its own: the base's, or those after another adapter's cache?

Two questions of root_cause.py, which has decided the cause before it asks. ``adapter_in_base``: is an adapter merged
into the base, or active on requests for it? ``adapter_moved_towards``: whose key-value cache was shared? The name is
part of what is reported, and changes neither verdict nor cause. A third is asked after an alarm, ``likeliest_others``:
with which other adapters are faults worth a replay?
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from detectors.canaries.retention import prepare
from detectors.diagnosis.signature_matching import LEFT_OVER, RUNNER_UP, CanaryVectors, canary_vectors
from detectors.records import THE_BASE, Measurement

Doubles = NDArray[np.float64]


def adapter_moved_towards(canary_moves: Sequence[tuple[Measurement, Doubles]]) -> str:
    """Whose direction a displacement of the served answers has: another adapter's name, ``THE_BASE``, "" for none.

    canary_moves: (measurement, y_now - y_before over kept tokens as a vector). An adapter is named where the cosine,
    over all canaries, between this and the way from the own answers to that adapter's exceeds one half.
    """
    best, nearest = 0.5, ""
    names = set.intersection(*(set(m.comparison.reference.others) for m, _ in canary_moves)) if canary_moves else set()
    for other_name in (*sorted(names), None):  # None: the base, whatever adapters are called
        cross = size = moved = 0.0
        for m, move in canary_moves:
            ready = prepare(m.comparison.reference)
            other = 0.0 if other_name is None else ready.from_base(ready.others[other_name])
            towards = other - ready.delta
            cross += float(move @ towards)
            size += float(towards @ towards)
            moved += float(move @ move)
        cosine = cross / math.sqrt(size * moved) if size * moved > 0 else 0.0
        if cosine > best:
            best, nearest = cosine, THE_BASE if other_name is None else other_name
    return nearest


def likeliest_others(measurements: Sequence[Measurement], most: int) -> tuple[str, ...]:
    """The other adapters whose part in the present answers explains most of them, first; at most so many.

    measurements: finite ones of one adapter. Explained: the energy of ``delta' - delta`` along an other's own effect,
    as when it is stacked on this adapter, or along the way to it, as when it is averaged with it; the larger of both.
    Only an order in which to replay: no name rests on it.
    """
    moves = [(c.ready, c.served - c.live - c.ready.delta) for c in map(canary_vectors, measurements)]
    names = set.intersection(*(set(ready.others) for ready, _ in moves)) if moves else set()

    def explained(name: str) -> float:
        others = [ready.from_base(ready.others[name]) for ready, _ in moves]
        ways = (others, [other - ready.delta for other, (ready, _) in zip(others, moves, strict=True)])
        return max(_along([move for _, move in moves], way) for way in ways)

    return tuple(sorted(names, key=lambda name: (-explained(name), name))[:most])


def adapter_in_base(measurements: Sequence[Measurement]) -> str:
    """The adapter whose answers the *base's* endpoint gives, "" for none: merged into it, or active on its requests.

    By the naming rule of signatures on ``z - b`` alone: at most 5 % of its energy is left, and half of what the next
    adapter leaves.
    """
    canaries = [canary_vectors(m) for m in measurements]
    energy = sum(float(c.live @ c.live) for c in canaries)
    names = set.intersection(*(set(m.comparison.reference.others) for m in measurements)) if measurements else set()
    left = sorted((_left(canaries, name), name) for name in names)
    runner_up = left[1][0] if len(left) > 1 else math.inf
    if not left or not energy > 0 or left[0][0] > min(LEFT_OVER * energy, RUNNER_UP * runner_up):
        return ""
    return left[0][1]


def _along(moves: Sequence[Doubles], way: Sequence[Doubles]) -> float:
    """Energy of the moves, over all canaries, in the direction of the way; 0 in the opposite one."""
    cross, size = (sum(float(a @ b) for a, b in zip(way, of, strict=True)) for of in (moves, way))
    return max(cross, 0.0) ** 2 / size if size > 0 else 0.0


def _left(canaries: Sequence[CanaryVectors], name: str) -> float:
    others = (c.ready.from_base(c.ready.others[name]) for c in canaries)
    return sum(float((d := c.live - other) @ d) for c, other in zip(canaries, others, strict=True))
