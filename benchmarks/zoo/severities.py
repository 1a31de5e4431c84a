"""How severe is each injected fault? The grid that the diagnosis was developed on, and draws that nobody has looked at.

Ranges of the draws, each uniform: they reach as far as the grid on both sides, and between its values.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

SEED = 89
# Faults that no signature is made of, to be called unknown; the last two are in no grid.
OPEN = ("noise on weights", "signs turned", "half of the rows", "layers moved on", "spoilt in part")
DRAWN_ONLY = ("inputs permuted", "adapter in two bits")


@dataclass(frozen=True, slots=True)
class Severities:
    """Of the faults of one adapter, or of one base; the defaults are the grid. Three of a kind are in rising order of
    how far they are from what was accepted, except for strengths.

    applied: strength that is left where an adapter counts as not applied; strengths: wrong ones; pods: one is at fault
    noise: share of each matrix's standard deviation; rows: share of rows that is lost; turned: layers moved by
    spoilt: share of layers from which rows are permuted; open_set: faults without a signature
    towards: share of the way to a later release; rounded: (bits, group); reparameterised: seeds; merged: share
    """

    applied: tuple[float, ...] = (0.0, 0.01, 0.02)
    strengths: tuple[float, ...] = (0.65, 0.85, 1.75)
    temperatures: tuple[float, ...] = (0.75, 1.2, 1.5)
    pods: tuple[int, ...] = (2, 3, 4)
    noise: float = 1.0
    rows: float = 0.5
    turned: int = 1
    spoilt: float = 0.5
    open_set: tuple[str, ...] = OPEN
    towards: tuple[float, ...] = (1.2, 1.8, 2.6)
    # The first two are rounded as in enrolment, the third by another recipe, whose errors have other directions.
    rounded: tuple[tuple[int, int], ...] = ((4, 0), (3, 0), (3, 32))
    reparameterised: tuple[int, ...] = (15, 16)
    merged: tuple[float, ...] = (0.7, 0.95, 1.2)


SeveritiesOf = Callable[[str], Severities]


def grid(_name: str) -> Severities:
    """The same for every adapter and base."""
    return Severities()


def drawn(name: str) -> Severities:
    """Of the adapter or base of that name."""
    rng = np.random.default_rng([SEED, zlib.crc32(name.encode())])

    def each(*ranges: tuple[float, float]) -> tuple[float, ...]:
        return tuple(float(rng.uniform(low, high)) for low, high in ranges)

    return Severities(
        applied=(0.0, *each((0.0, 0.02), (0.0, 0.03))),
        strengths=each((0.3, 0.6), (0.6, 0.88), (1.15, 2.5)),
        temperatures=each((0.5, 0.85), (1.15, 1.4), (1.4, 2.0)),
        pods=tuple(int(n) for n in rng.choice(np.arange(2, 7), size=3, replace=False)),
        noise=float(rng.uniform(0.6, 1.6)),
        rows=float(rng.uniform(0.3, 0.7)),
        turned=int(rng.integers(1, 4)),
        spoilt=float(rng.uniform(0.0, 0.6)),
        open_set=(*OPEN, *DRAWN_ONLY),
        towards=each((0.8, 1.5), (1.5, 2.2), (2.2, 3.0)),
        rounded=tuple((int(bits), int(rng.choice([0, 16, 32, 48]))) for bits in (4, 3, rng.choice([3, 4]))),
        reparameterised=tuple(int(seed) for seed in rng.integers(1_000, 10_000, size=2)),
        merged=each((0.5, 0.8), (0.8, 1.1), (1.1, 1.4)),
    )
