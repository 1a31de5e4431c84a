"""Do groups of weights lie on few levels, how likely is that by chance, and what are these levels called?

Pure functions of arrays of shape (groups, weights), float32. Derivation: docs/mathematics.md#weight-grids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from detectors.records import Floats

Levels = NDArray[np.float64]
"""(L,) ascending, in units of the outermost one."""
# Where within a binade the widest weight may lie: the bound is computed at each of these, and the worst one taken.
EDGES = np.linspace(1.0, 2.0, 33)[:-1]
BINADES = 40
# Rounding of scale and level in float32, and of the published constants.
LEAST_ERROR = 1e-6
SUBNORMAL_STEP = 2.0**-24
EVEN, NF4, FP4, E2M1, E4M3, E5M2 = "evenly spaced", "NF4", "FP4", "E2M1", "FP8 E4M3", "FP8 E5M2"
# Dettmers et al. (2023), QLoRA, appendix E: quantiles of the normal distribution, and bitsandbytes' four-bit floats.
NF4_LEVELS = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634),
    *(0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
FP4_LEVELS = (0.0, 0.005208333333, 0.1666666667, 0.25, 0.3333333333, 0.5, 0.6666666667, 1.0)


def mantissa_bits(values: Floats) -> int:
    """Of the type that float32 values were rounded to: 7 of bfloat16, 10 of float16, else 23.

    A float32 file may hold weights that were in 16 bits before.
    """
    low = int(np.bitwise_or.reduce(np.ascontiguousarray(values, np.float32).view(np.uint32), axis=None))
    return 7 if not low & 0xFFFF else 10 if not low & 0x1FFF else 23


def distinct_values(groups: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of each group: how many different values it holds, and how many of its weights are not 0."""
    ordered = np.sort(groups, axis=1)
    return 1 + (np.diff(ordered, axis=1) != 0).sum(axis=1), (groups != 0).sum(axis=1)


@cache
def fewest_expected(weights: int, mantissa: int) -> float:
    """The least expectation of distinct values among so many ordinary weights that are not 0.

    Ordinary: independent draws with a density symmetric about 0 and nowhere rising away from it, rounded to a float of
    so many mantissa bits. Such a density is a mixture of uniform ones on [-t, t], and the expectation is concave in the
    probabilities of the values, so that the least one is that of some t; binades repeat, so t in [1, 2) is enough.

    Source: docs/mathematics.md#weight-grids.
    """
    if mantissa > 12:
        # Repeats are so rare that a pair bound does: each value has at most the probability 2^-mantissa.
        return weights - weights * (weights - 1) / 2.0 * 2.0**-mantissa
    least = float(weights)
    for edge in EDGES:
        below = np.arange(1, BINADES)
        # Values of one binade, both signs, and the probability of each under the uniform density 1 / (2 t).
        counts = np.concatenate([[2.0 * max(edge - 1.0, 0.0) * 2**mantissa], np.full(BINADES - 1, 2.0 * 2**mantissa)])
        each = np.concatenate([[2.0**-mantissa], 2.0**-below * 2.0**-mantissa]) / (2.0 * edge)
        least = min(least, float((counts * -np.expm1(weights * np.log1p(-each))).sum()))
    return least


def evidence_of_few(present: NDArray[np.int64], levels: int, mantissa: int) -> float:
    """-ln of the chance that every one of these groups of ordinary weights has at most so many distinct values.

    present: weights of each group that are not 0; levels: counted with 0

    Null hypothesis: ordinary weights (``fewest_expected``), groups independent. Guarantee: the number of distinct
    values changes by at most 1 with each weight, so that P(D <= m) <= exp(-2 (E[D] - m)^2 / n) (McDiarmid 1989). Breaks
    where weights are copies of one another: repeated rows, constants.
    """
    nats = 0.0
    for weights, count in zip(*np.unique(present, return_counts=True), strict=True):
        margin = fewest_expected(int(weights), mantissa) - levels
        nats += float(count) * 2.0 * margin**2 / float(weights) if margin > 0 else 0.0
    return nats


def evidence_of_levels(groups: Floats, tables: Sequence[Levels], mantissa: int) -> float:
    """-ln of the chance that all ordinary weights are as near to a level as rounding allows; 0 where one is not.

    tables: ascending levels in units of the outermost one, on which the largest weight of a group lies; each group may
    have its own of them, which its evidence pays for

    Null hypothesis: a weight lies anywhere in the cell between two midpoints alike, given the largest one, and groups
    are independent. Guarantee: the product of the covered shares of cells, times the number of tables for each group
    (union bound). Breaks where the density changes much within a cell.
    """
    best = np.max([_evidence_of_groups(groups, levels, mantissa) for levels in tables], axis=0)
    return max(float(best.sum() - len(best) * np.log(len(tables))), 0.0)


def _evidence_of_groups(groups: Floats, levels: Levels, mantissa: int) -> NDArray[np.float64]:
    """(groups,) nats, minus infinity for a group with a weight that is near to no level; 0 for zeros."""
    largest = np.abs(groups).max(axis=1, keepdims=True)
    used = groups / np.where(largest > 0, largest, 1.0)
    middles = (levels[1:] + levels[:-1]) / 2.0
    nearest = np.searchsorted(middles, used)
    # Both the weight and the largest one were rounded, each by half a unit of the last place, which is a fixed one for
    # the smallest numbers of float16.
    fixed = SUBNORMAL_STEP / float(largest[largest > 0].min(initial=1.0)) if mantissa == 10 else 0.0
    error = (2.0**-mantissa + LEAST_ERROR) * np.abs(levels) + fixed
    off = np.abs(used - levels[nearest]) > error[nearest]
    # The outermost levels are the largest weight's own.
    cells = np.diff(middles, prepend=middles[0] - 1.0, append=middles[-1] + 1.0)
    covered = np.clip(2.0 * error / cells, 1e-30, 1.0)
    inner = (used != 0) & (np.abs(used) < 1.0)
    nats = np.where(inner, -np.log(covered)[nearest], 0.0).sum(axis=1)
    return np.where(off.any(axis=1), -np.inf, nats)


def is_evenly_spaced(groups: Floats, bits: int, mantissa: int) -> bool:
    """Are the values of each group multiples of one step, counted from its least value? For grids with a zero point."""
    return all(_even(np.unique(group), bits, mantissa) for group in groups)


def _even(values: Floats, bits: int, mantissa: int) -> bool:
    if len(values) < 3:
        return True
    span = float(values[-1] - values[0])
    largest = float(np.abs(values).max())
    for steps in range(2**bits - 1, len(values) - 2, -1):
        places = (values - values[0]) / span * steps
        error = steps * (2.0 * largest * 2.0 ** -(mantissa + 1) * 2.0 / span + LEAST_ERROR)
        if (np.abs(places - np.round(places)) <= min(error, 0.35)).all():
            return True
    return False


def level_tables(bits: int) -> Mapping[str, tuple[Levels, ...]]:
    """Name -> levels in units of the outermost one, for each level that may be the outermost."""
    tables: dict[str, tuple[Levels, ...]] = {}
    if bits == 4:
        tables[NF4] = (np.array(NF4_LEVELS),)
        tables[FP4] = (_both_signs(np.array(FP4_LEVELS)),)
        tables[E2M1] = _by_outermost(np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6]), 3)
    if bits == 8:
        # The coarser one first: nearly all of its levels are among the other's.
        tables[E5M2] = _by_outermost(_floats(exponent=5, mantissa=2, largest=57344.0), 4)
        tables[E4M3] = _by_outermost(_floats(exponent=4, mantissa=3, largest=448.0), 8)
    half = 2 ** (bits - 1)
    # In 6 bits (Q6_K) the scale of a group is itself rounded, so that the largest weight may lie on any level.
    tops = range(1, half + 1) if bits == 6 else (half - 1, half)
    tables[EVEN] = tuple(_both_signs(np.linspace(0.0, 1.0, top + 1)) for top in tops)
    return tables


def _by_outermost(levels: Levels, count: int) -> tuple[Levels, ...]:
    """A scale need not bring the largest weight to the largest level; one of its ``count`` largest is enough."""
    return tuple(_both_signs(levels[: len(levels) - cut] / levels[-1 - cut]) for cut in range(count))


def _floats(exponent: int, mantissa: int, largest: float) -> Levels:
    """The values of a small float type that are not negative, up to the largest, subnormal ones included."""
    parts = np.arange(2**mantissa) / 2**mantissa
    bias = 2 ** (exponent - 1) - 1
    values = [parts * 2.0 ** (1 - bias), *((1 + parts) * 2.0 ** (power - bias) for power in range(1, 2**exponent))]
    every = np.concatenate(values)
    return every[every <= largest]


def _both_signs(levels: Levels) -> Levels:
    return np.unique(np.concatenate([-levels, levels]))
