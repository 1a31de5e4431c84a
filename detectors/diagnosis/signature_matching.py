"""Which recorded or computed fault do the present answers look like?

A signature predicts what is served under a fault; what it leaves over of the present answers is its score. Scores are
residual energies, not e-values: they name a fault that evidence has already found. Symbols as in retention.py.

Faults of the adapter are read *in place*, against the base that serves now: ``y - z`` with the signature's ``f - b``.
A base that moved and was tolerated stays moved for months, and the adapter may break on it. Faults that move the base's
own answers (fewer bits, another temperature for everybody) must explain both endpoints: ``(y - b, z - b)`` together.
Each is judged by its share of the energy to explain in its own space; where the base stands still the two agree.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from detectors.canaries.position_bands import BandPart
from detectors.canaries.retention import PreparedReference, prepare
from detectors.diagnosis.name_encoding import part_of
from detectors.diagnosis.shared_parameter_fits import FactorFit, MixtureFit, StrengthFit
from detectors.records import Band, Cause, Fault, FaultKind, Measurement, Recorded

Doubles = NDArray[np.float64]

# A signature explains a fault when it leaves at most this share of the energy above noise, and at most half of what
# the best signature of any other cause leaves.
LEFT_OVER = 0.05
RUNNER_UP = 0.5

CAUSES = {
    FaultKind.OTHER_ADAPTER: Cause.WRONG_ADAPTER,
    FaultKind.WITHOUT: Cause.PARTLY_APPLIED,
    FaultKind.QUANTISED: Cause.QUANTISED_BASE,
    FaultKind.STACKED: Cause.COMPOSITION_INTERFERENCE,
    FaultKind.AVERAGED: Cause.COMPOSITION_INTERFERENCE,
    FaultKind.WARMED: Cause.SHARED_CACHE,
    FaultKind.PREFILLED: Cause.SHARED_CACHE,
}
# Answered without the adapter in these positions: computed, nothing is recorded. A fault of prefill, or its reverse.
PHASES = {
    "its part of the first token": (Band.FIRST,),
    "its part of every token after the first": (Band.EARLY, Band.MIDDLE, Band.LATE),
    "its part of the tokens after 16": (Band.MIDDLE, Band.LATE),
    "its part of the tokens after 128": (Band.LATE,),
}
PREFILL = "its part of the prompt and the first token"
EACH_ITS_OWN, ONE_FOR_ALL = "a strength of each canary", "one strength"
SERVED_ONLY, BOTH = "the adapter's answers", "all answers"


@dataclass(frozen=True, slots=True)
class Explanation:
    """One signature tried on one round.

    name: of what, by the cause: another adapter, a block, bits, one strength or a strength of each canary
    kind: the recorded fault's, None where it was computed
    value: what was fitted: mean effective scale, temperature, or the other adapter's part; nan where nothing was
    left, energy: nats squared, summed over canaries, what benign noise may add taken off; share: left / energy
    raw: left before the noise was taken off, which orders signatures that leave nothing above it
    """

    cause: Cause
    name: str
    left: float
    energy: float
    raw: float
    kind: FaultKind | None = None
    value: float = math.nan

    @property
    def share(self) -> float:
        return self.left / self.energy


@dataclass(frozen=True, slots=True, eq=False)
class CanaryVectors:
    """One canary as vectors. served = y - b, live = z - b, both over kept tokens; noise in nats squared."""

    seen: Measurement
    ready: PreparedReference
    served: Doubles
    live: Doubles
    noise: float
    noise_of_base: float


@dataclass(slots=True)
class _Residual:
    """Left over, over canaries; a signature that some canary lacks is no signature of the round."""

    left: float = 0.0
    canaries: int = 0
    moves_base: bool = False


@dataclass(slots=True)
class _Residuals:
    """What is left over by each signature, and the paths along which another adapter may have a part."""

    sums: dict[tuple[Cause, str, FaultKind | None], _Residual] = field(default_factory=dict)
    mixtures: dict[tuple[FaultKind, str], MixtureFit] = field(default_factory=dict)

    def add(self, cause: Cause, name: str, left: Doubles, kind: FaultKind | None = None, base: bool = False) -> None:
        entry = self.sums.setdefault((cause, name, kind), _Residual(moves_base=base))
        entry.left += float(left @ left)
        entry.canaries += 1

    def mix(self, c: CanaryVectors) -> None:
        """The paths of one canary: to both stacked, and over the averages to the other adapter."""
        known, found = c.seen.comparison.reference, defaultdict[tuple[FaultKind, str], dict[float, Doubles]](dict)
        for fault, answers in known.faults.items():
            if CAUSES.get(fault.kind) is Cause.COMPOSITION_INTERFERENCE:
                name, part = part_of(fault)
                found[fault.kind, name][part] = c.ready.from_base(answers.served) - c.ready.delta
        for (kind, name), points in found.items():
            if kind is FaultKind.AVERAGED and name in known.others:
                points[1.0] = c.ready.from_base(known.others[name]) - c.ready.delta
            self.mixtures.setdefault((kind, name), MixtureFit(kind)).add(c.served - c.live - c.ready.delta, points)


def canary_vectors(seen: Measurement) -> CanaryVectors:
    """Vectors and noise of a finite measurement."""
    ready = prepare(seen.comparison.reference)
    served = ready.from_base(seen.comparison.served.log_probs)
    live = ready.from_base(seen.comparison.live_base.log_probs)
    floor = seen.comparison.reference.noise
    # Under benign change the scale wanders along the curve, which is about as long as delta near 1, and rho beside it.
    noise = (floor.scale**2 + floor.distortion**2) * ready.energy
    return CanaryVectors(seen, ready, served, live, noise, 2.0 * floor.base_shift * ready.energy)


def explanations(seen: Sequence[Measurement], tolerance: float) -> tuple[Explanation, ...]:
    """Every signature that all of these canaries have, the one that leaves the smallest share first.

    seen: finite measurements of one adapter in one round, at least one; tolerance: |s - 1| or |T - 1| that is no fault
    Empty where the present answers are within the battery's noise of the accepted ones: nothing is named there.

    Source: docs/mathematics.md#causes. Temperature and another adapter's part are fitted, one number for all canaries;
    the curve of strengths is two more signatures, with the nearest point of each canary and with one of all.
    """
    canaries = [canary_vectors(m) for m in seen]
    in_place = sum(float((d := c.served - c.live - c.ready.delta) @ d) for c in canaries)
    both = sum(float((d := c.served - c.ready.delta) @ d) + float(c.live @ c.live) for c in canaries)
    noise = sum(c.noise for c in canaries)
    noise_of_both = noise + sum(c.noise_of_base for c in canaries)

    def judged(cause: Cause, name: str, left: float, base: bool, kind: FaultKind | None, value: float) -> Explanation:
        energy, quiet = (both, noise_of_both) if base else (in_place, noise)
        return Explanation(cause, name, max(left - quiet, 0.0), energy - quiet, left, kind, value)

    tally = _recorded(canaries)
    tried = [
        judged(cause, name, entry.left, entry.moves_base, kind, math.nan)
        for (cause, name, kind), entry in tally.sums.items()
        if entry.canaries == len(canaries)
    ]
    for (kind, name), path in tally.mixtures.items():
        if path.canaries == len(canaries):
            part, left = path.solve()
            tried.append(judged(CAUSES[kind], name, left, False, kind, part))
    for name, scale, left in _strengths(canaries):
        tried.append(judged(Cause.WRONG_STRENGTH, name, left, False, None, scale))
    for name, left, temperature in _temperatures(canaries):
        if abs(temperature - 1.0) > tolerance:
            tried.append(judged(Cause.SAMPLING_CHANGED, name, left, name == BOTH, None, temperature))
    return tuple(sorted((e for e in tried if e.energy > 0), key=lambda e: (e.share, e.raw, e.name)))


def named(tried: Sequence[Explanation]) -> tuple[Explanation, ...]:
    """The signature that the naming rule allows, and after it those of its cause that cannot be told from it.

    tried: from ``explanations``. Empty where none passes. The runner-up is the best signature of *another* cause:
    neighbouring layers, or 4 bits and 3, are alike and must not keep each other from being named.
    """
    if not tried or tried[0].share > LEFT_OVER:
        return ()
    best = tried[0]
    runner_up = min((e.share for e in tried if e.cause is not best.cause), default=math.inf)
    if not best.share < runner_up or best.share > RUNNER_UP * runner_up:
        return ()
    mine = [e for e in tried[1:] if e.cause is best.cause and e.share <= LEFT_OVER]
    return (best, *(e for e in mine if RUNNER_UP * e.raw <= best.raw))


def _strengths(canaries: Sequence[CanaryVectors]) -> Iterator[tuple[str, float, float]]:
    """(name, scale, left) of the curve of strengths: each canary's own nearest point, and one strength for all."""
    chords = sum(c.seen.scale_misfit * c.ready.energy for c in canaries)
    yield EACH_ITS_OWN, float(np.mean([c.seen.scale for c in canaries])), chords
    one = StrengthFit()
    for c in canaries:
        one.add(c.served - c.live, tuple(c.seen.comparison.reference.scales.tolist()), c.ready.effect_curve.knots)
    if one.canaries == len(canaries):
        yield ONE_FOR_ALL, *one.solve()


def _recorded(canaries: Sequence[CanaryVectors]) -> _Residuals:
    tally = _Residuals()
    present = {band.band for c in canaries for band in c.ready.bands}
    for c in canaries:
        now, known = c.served - c.live, c.seen.comparison.reference
        for name, other in known.others.items():
            tally.add(Cause.WRONG_ADAPTER, name, now - c.ready.from_base(other), FaultKind.OTHER_ADAPTER)
        for fault, answers in known.faults.items():
            _add_fault(tally, c, fault, answers)
        tally.mix(c)
        for name, off in PHASES.items():
            if present & set(off):
                tally.add(Cause.PARTLY_APPLIED, name, now - _switched_off(c.ready.delta, c.ready.bands, off))
    return tally


def _add_fault(tally: _Residuals, c: CanaryVectors, fault: Fault, answers: Recorded) -> None:
    """One recorded fault; mixtures are paths and added together. A prompt that is read by the base, its last token
    included, is no cache that was reused: there the adapter is off in prefill."""
    cause, name = CAUSES.get(fault.kind), fault.name
    if cause is None or cause is Cause.COMPOSITION_INTERFERENCE:
        return
    if fault == Fault(FaultKind.PREFILLED, ""):
        cause, name = Cause.PARTLY_APPLIED, PREFILL
    served = c.ready.from_base(answers.served)
    if answers.live_base is None:
        tally.add(cause, name, c.served - c.live - served, fault.kind)
        return
    left = np.concatenate([c.served - served, c.live - c.ready.from_base(answers.live_base)])
    tally.add(cause, name, left, fault.kind, base=True)


def _switched_off(effect: Doubles, bands: Sequence[BandPart], off: Sequence[Band]) -> Doubles:
    """The effect without these positions."""
    less = effect.copy()
    for band in bands:
        if band.band in off:
            less[band.part] = 0.0
    return less


def _temperatures(canaries: Sequence[CanaryVectors]) -> Iterator[tuple[str, float, float]]:
    """(whose answers, left, temperature). log p at temperature T is log p / T but for a constant, which <., .> ignores.

    Of the adapter's endpoint alone, on the base as it answers now; and of both endpoints.
    """
    one, all_of = FactorFit(), FactorFit()
    for c in canaries:
        golden = c.ready.vector(c.ready.base)
        one.add(golden + c.served, golden + c.live + c.ready.delta)
        all_of.add(
            np.concatenate([golden + c.served, golden + c.live]), np.concatenate([golden + c.ready.delta, golden])
        )
    for name, ray in ((SERVED_ONLY, one), (BOTH, all_of)):
        u, left = ray.solve()
        if u > 0:
            yield name, left, 1.0 / u
