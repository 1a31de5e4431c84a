"""Does an adapter answer otherwise than its base at all? Asked before anything is accepted, so without a golden record
and its noise floor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectors.canaries.route_agreement import fewest_beyond
from detectors.errors import ShapeMismatch
from detectors.records import Floats

REPEATS = 2
# Ways in which four answers make two pairs: where all four come from one model, each is the closest as often.
PAIRINGS = 3


@dataclass(frozen=True, slots=True)
class FirstDifference:
    """What was found of one adapter.

    prompts: that were compared; apart: on which the answers fall into those of adapter and base; needed: at least so
    many make a difference, None where no number would
    gap: between the means of adapter and base; noise: between two answers of one model; both root mean square over all
    positions, nats, nan without a position
    """

    prompts: int
    apart: int
    needed: int | None
    gap: float
    noise: float

    @property
    def differs(self) -> bool:
        return self.needed is not None and self.apart >= self.needed


def first_difference(answers: Sequence[tuple[Floats, Floats]]) -> FirstDifference:
    """Do these answers of adapter and base differ, beyond what repeats of one request do?

    answers: for each prompt (of the adapter, of the base), each (2, T) natural-log probabilities of the same T >= 1
    tokens in two requests

    On a prompt they are *apart* where the two pairs of one name are closer than either way of pairing them across, by
    the sum of squared distances; ties are not apart, so that an engine that repeats itself exactly is no exception.

    Null hypothesis: the adapter's name is answered as the base's is, and the four requests of a prompt are
    exchangeable. Guarantee: a difference is found with chance .01 at most (``route_agreement.LEVEL``), whatever the
    distribution of the noise: of three pairings each is the strictly closest with chance 1/3 at most, prompts are
    independent, and the number needed is exceeded by Bin(n, 1/3) with at most that chance: 7 of 8. What breaks it: an
    engine whose answers depend on the order of requests, such as a cache of prefixes that a later one of them meets.
    Source: an exact permutation test, docs/mathematics.md#first-difference. Raises ShapeMismatch.
    """
    pairs = [_checked(adapter, base) for adapter, base in answers]
    apart = sum(_apart(adapter, base) for adapter, base in pairs)
    gaps = [(adapter.mean(axis=0) - base.mean(axis=0)) ** 2 for adapter, base in pairs]
    repeats = [(own[0] - own[1]) ** 2 for pair in pairs for own in pair]
    needed = fewest_beyond(len(pairs), 1 / PAIRINGS)
    return FirstDifference(len(pairs), apart, needed, _root_mean(gaps), _root_mean(repeats))


def _checked(adapter: Floats, base: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if adapter.ndim != 2 or adapter.shape != base.shape or adapter.shape[0] != REPEATS or not adapter.shape[1]:
        raise ShapeMismatch("answers", (adapter.shape, base.shape), f"({REPEATS}, T) of each, T >= 1")
    return np.asarray(adapter, np.float64), np.asarray(base, np.float64)


def _apart(adapter: NDArray[np.float64], base: NDArray[np.float64]) -> bool:
    within = _square(adapter[0], adapter[1]) + _square(base[0], base[1])
    across = [_square(adapter[0], base[i]) + _square(adapter[1], base[1 - i]) for i in (0, 1)]
    return within < min(across)


def _square(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    return float(np.sum((first - second) ** 2))


def _root_mean(squares: Sequence[NDArray[np.float64]]) -> float:
    return float(np.sqrt(np.concatenate(squares).mean())) if squares else float("nan")
