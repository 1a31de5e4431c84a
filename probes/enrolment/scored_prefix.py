"""How much of a canary's continuation is forced and scored? Its first tokens, until they hold enough of the effect.

The score of a draw is 0 or 1 (detectors/canaries/tolerance.py) and compares displacements with |delta| of the same
positions, so that more positions cost tokens and make a score no larger. What they do is average: over one or two, the
effective strength moves more under any displacement, faults and harmless releases alike, and a fault that leaves these
very tokens alone is missed on all canaries that begin alike. Figures and null: docs/mathematics.md#scored-positions.

A share of each half, at random, stays whole for faults that begin late (detectors/canaries/position_bands.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from detectors.canaries.retention import prepare
from detectors.records import Floats, Reference, Summary
from probes.enrolment.settings import EnrolSettings
from probes.golden.record import GoldenCanary

Doubles = NDArray[np.float64]
# With one position up to half of a real adapter's canaries were beyond tolerance under a harmless release of its base,
# with two up to a quarter, with three none.
EFFECTIVE_POSITIONS, USUAL_TOLERANCE = 3.0, 0.05
# Noise relative to the effect is at most 1 / sqrt(1/2) = 1.4 times that of the whole continuation.
LEAST_ENERGY_SHARE = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class WholeAndShort:
    """Canaries whose whole continuation is scored, and those of which the first positions are."""

    whole: list[GoldenCanary]
    short: list[GoldenCanary]

    @property
    def all(self) -> list[GoldenCanary]:
        return [*self.whole, *self.short]


def whole_and_short(canaries: Sequence[GoldenCanary], settings: EnrolSettings, seed: int) -> WholeAndShort:
    """``settings.whole_share`` of the canaries as they are, rounded up and drawn at random; the others shortened.

    canaries: drafts of golden canaries, without signatures. Which stay whole does not depend on any answer, so that
    both parts are random samples wherever the canaries were one.
    """
    order = np.random.default_rng([settings.seed, seed]).permutation(len(canaries))
    count = math.ceil(settings.whole_share * len(canaries))
    whole, others = ([canaries[int(index)] for index in part] for part in (order[:count], order[count:]))
    worth, floor = wanted_worth(settings.tolerances.scale), settings.min_energy
    short = [shortened(canary, scored_positions(energies(canary.reference), worth, floor)) for canary in others]
    return WholeAndShort(whole, short)


def wanted_worth(tolerance: float) -> float:
    """Positions' worth of the effect that a prefix needs: three, and more in proportion where the tolerance is finer
    than the usual 5 %, because fewer positions have more noise."""
    return EFFECTIVE_POSITIONS * max(1.0, USUAL_TOLERANCE / tolerance)


def scored_positions(by_position: Doubles, wanted: float, floor: float) -> int:
    """The shortest prefix that holds so many positions' worth of the effect; all positions where none does.

    by_position: (T,) |delta|^2 of each, nats squared; wanted: from ``wanted_worth``; floor: least mean energy

    Worth: (sum of energies)^2 / sum of their squares, the number of equal positions that average as well (Kish 1965,
    "Survey sampling", section 8.2). The mean energy of the prefix is at least half that of the whole continuation and
    at least ``floor``: below, the strength would rest on noise.
    """
    summed, squares = np.cumsum(by_position), np.cumsum(by_position**2)
    mean = summed / np.arange(1, len(summed) + 1)
    worth = np.divide(summed**2, squares, out=np.zeros_like(summed), where=squares > 0)
    enough = (worth >= wanted) & (mean >= max(floor, LEAST_ENERGY_SHARE * float(mean[-1])))
    return int(np.argmax(enough)) + 1 if enough.any() else len(by_position)


def energies(reference: Reference) -> Doubles:
    """(T,) |delta|^2 of each position, nats squared."""
    ready = prepare(reference)
    return np.bincount(np.nonzero(ready.mask)[0], ready.delta**2, minlength=len(ready.mask)).astype(np.float64)


def shortened(canary: GoldenCanary, positions: int) -> GoldenCanary:
    """The same canary with its first positions scored; the rest of its continuation stays as ``unscored``.

    canary: a draft, without signatures. What a position is answered does not depend on later ones, so that the recorded
    log-probabilities stay those of the shorter replay.
    """
    if positions >= len(canary.forced):
        return canary
    return replace(
        canary,
        forced=canary.forced[:positions],
        unscored=(*canary.forced[positions:], *canary.unscored),
        reference=_first(canary.reference, positions),
    )


def _first(reference: Reference, positions: int) -> Reference:
    def summary(side: Summary) -> Summary:
        return Summary(side.log_probs[:positions], side.rest[:positions], side.top1[:positions])

    others: dict[str, Floats] = {name: table[:positions] for name, table in reference.others.items()}
    return replace(
        reference,
        kept=reference.kept[:positions],
        golden_adapter=summary(reference.golden_adapter),
        golden_base=summary(reference.golden_base),
        curve=reference.curve[:, :positions],
        others=others,
    )
