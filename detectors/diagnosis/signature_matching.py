"""Which recorded or computed fault do the present answers look like?

A signature predicts what is served under a fault; the energy of the present answers that it leaves over is its score.
Scores are residual energies, not e-values: they name a fault that evidence has already found. Symbols as in
retention.py. The shares below decide which cause is named: tests/detectors/diagnosis/test_cause_table.py holds them.

Faults of the adapter are read *in place*, against the base that serves now: ``y - z`` with the signature's ``f - b``.
A base that moved and was tolerated stays moved for months, and the adapter may break on it. Faults that move the base's
own answers (fewer bits, another temperature for everybody) must explain both endpoints: ``(y - b, z - b)`` together.
Each is judged by its share of the energy to explain in its own space; where the base stands still the two agree.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from detectors.canaries.position_bands import BandPart
from detectors.canaries.retention import PreparedReference, nearest_scale, prepare
from detectors.diagnosis.listed_answers import censored_alike
from detectors.diagnosis.name_encoding import part_of
from detectors.diagnosis.shared_parameter_fits import FactorFit, MixtureFit, StrengthFit
from detectors.records import Band, Cause, Fault, FaultKind, Measurement, Recorded

Doubles = NDArray[np.float64]

# A signature explains a fault when it leaves at most this share of the energy above noise, and at most half of what
# the best signature of any other cause leaves.
LEFT_OVER = 0.05
RUNNER_UP = 0.5
# A strength is replayed where the curve between the recorded ones leaves at most this share: on models 1 to 7 % were
# left of true strengths, so that even a bad bend is within it. A replay too many costs a second, and names nothing.
ROUGHLY = 0.3
# A strength so near to a known one, as a share of it, has its answers.
KNOT_APART = 0.003

CAUSES = {
    FaultKind.OTHER_ADAPTER: Cause.WRONG_ADAPTER,
    FaultKind.WITHOUT: Cause.PARTLY_APPLIED,
    FaultKind.QUANTISED: Cause.QUANTISED_BASE,
    FaultKind.STACKED: Cause.COMPOSITION_INTERFERENCE,
    FaultKind.AVERAGED: Cause.COMPOSITION_INTERFERENCE,
    FaultKind.TAKEN_AWAY: Cause.COMPOSITION_INTERFERENCE,
    FaultKind.WARMED: Cause.SHARED_CACHE,
    FaultKind.PREFILLED: Cause.SHARED_CACHE,
}
# Answered without the adapter in these positions: computed, nothing is recorded. A fault of prefill, or its reverse.
# The names are those of the table POSITIONS in detectors/on_call_text.py.
POSITIONS = {
    "first": (Band.FIRST,),
    "after the first": (Band.EARLY, Band.MIDDLE, Band.LATE),
    "after 16": (Band.MIDDLE, Band.LATE),
    "after 128": (Band.LATE,),
}
PREFILL = "prompt and first"
EACH_ITS_OWN, ONE_FOR_ALL = "a strength of each canary", "one strength"
SERVED_ONLY, BOTH = "adapter", "adapter and base"


@dataclass(frozen=True, slots=True)
class SignatureFit:
    """One signature tried on one round.

    name: of what, by the cause: another adapter, a block, bits, positions, one strength or a strength of each canary,
    whose temperature
    kind: the recorded fault's, None where it was computed
    value: what was fitted: mean effective scale, temperature, the other adapter's part, or of a member taken away
    the share of its weight; nan where nothing was
    left, energy: nats squared, summed over canaries, minus what benign noise may add; share: left / energy
    raw: left before the noise was subtracted, which orders signatures that leave nothing above it
    moves_base: is it read on both endpoints?
    base_share: of a temperature of both, the share that it leaves of what the base itself has changed; inf where that
    is within noise, and of all others
    """

    cause: Cause
    name: str
    left: float
    energy: float
    raw: float
    kind: FaultKind | None = None
    value: float = math.nan
    moves_base: bool = False
    base_share: float = math.inf

    @property
    def share(self) -> float:
        return self.left / self.energy


@dataclass(frozen=True, slots=True, eq=False)
class CanaryVectors:
    """One canary as vectors. served = y - b, live = z - b, both over kept tokens; noise in nats squared."""

    measurement: Measurement
    ready: PreparedReference
    served: Doubles
    live: Doubles
    noise: float
    noise_of_base: float


@dataclass(slots=True)
class _Residual:
    """Energy left over by one signature, over canaries; one that some canary lacks is no signature of the round."""

    left: float = 0.0
    canaries: int = 0
    moves_base: bool = False


@dataclass(slots=True)
class _Residuals:
    """What is left over by each signature, and the fits of how large another adapter's part is."""

    by_signature: dict[tuple[Cause, str, FaultKind | None], _Residual] = field(default_factory=dict)
    mixtures: dict[tuple[FaultKind, str], MixtureFit] = field(default_factory=dict)

    def add(self, cause: Cause, name: str, left: Doubles, kind: FaultKind | None = None, base: bool = False) -> None:
        residual = self.by_signature.setdefault((cause, name, kind), _Residual(moves_base=base))
        residual.left += float(left @ left)
        residual.canaries += 1

    def add_mixtures(self, c: CanaryVectors) -> None:
        """The interpolation paths of one canary: to both adapters stacked, and over their averages to the other one."""
        reference, paths = c.ready, defaultdict[tuple[FaultKind, str], dict[float, Doubles]](dict)
        members = {part_of(fault)[0] for fault in reference.faults if fault.kind is FaultKind.TAKEN_AWAY}
        for fault, answers in reference.faults.items():
            if CAUSES.get(fault.kind) is Cause.COMPOSITION_INTERFERENCE:
                name, part = part_of(fault)
                if fault.kind is FaultKind.AVERAGED and name in members:
                    continue  # of a sum: the others weakened, which is tried as that
                paths[fault.kind, name][part] = reference.from_base(answers.served) - reference.delta
        for (kind, name), points in paths.items():
            if kind is FaultKind.AVERAGED and name in reference.others:
                points[1.0] = reference.from_base(reference.others[name]) - reference.delta
            fit = self.mixtures.setdefault((kind, name), MixtureFit(kind))
            fit.add(c.served - c.live - reference.delta, points)


def canary_vectors(measurement: Measurement) -> CanaryVectors:
    """Vectors and noise of a finite measurement."""
    of = measurement.comparison
    ready = prepare(censored_alike(of.reference, of.served, of.live_base))
    served = ready.from_base(measurement.comparison.served.log_probs)
    live = ready.from_base(measurement.comparison.live_base.log_probs)
    floor = ready.noise
    # Under benign change the scale wanders along the curve, which is about as long as delta near 1, and rho beside it.
    noise = (floor.scale**2 + floor.distortion**2) * ready.energy
    return CanaryVectors(measurement, ready, served, live, noise, 2.0 * floor.base_shift * ready.energy)


def signature_fits(measurements: Sequence[Measurement], tolerance: float) -> tuple[SignatureFit, ...]:
    """Every signature that all of these canaries have, the one that leaves the smallest share first.

    measurements: finite ones of one adapter in one round, at least one
    tolerance: |s - 1| or |T - 1| that is no fault
    Empty where the present answers are within the battery's noise of the accepted ones: nothing is named there.

    Source: docs/mathematics.md#causes. Temperature and another adapter's part are fitted, one number for all canaries;
    the curve of strengths is two more signatures, with the nearest point of each canary and with one of all.
    """
    canaries = [canary_vectors(m) for m in measurements]
    in_place = sum(float((d := c.served - c.live - c.ready.delta) @ d) for c in canaries)
    both = sum(float((d := c.served - c.ready.delta) @ d) + float(c.live @ c.live) for c in canaries)
    noise = sum(c.noise for c in canaries)
    noise_of_both = noise + sum(c.noise_of_base for c in canaries)

    def judged(cause: Cause, name: str, left: float, base: bool, kind: FaultKind | None, value: float) -> SignatureFit:
        energy, benign = (both, noise_of_both) if base else (in_place, noise)
        return SignatureFit(cause, name, max(left - benign, 0.0), energy - benign, left, kind, value, base)

    residuals = _recorded(canaries)
    fits = [
        judged(cause, name, residual.left, residual.moves_base, kind, math.nan)
        for (cause, name, kind), residual in residuals.by_signature.items()
        if residual.canaries == len(canaries)
    ]
    for (kind, name), mixture in residuals.mixtures.items():
        if mixture.canaries == len(canaries):
            part, left = mixture.solve()
            if kind is FaultKind.TAKEN_AWAY:
                part /= mixture.at[-1]
            fits.append(judged(CAUSES[kind], name, left, False, kind, part))
    for name, scale, left in _strengths(canaries):
        fits.append(judged(Cause.WRONG_STRENGTH, name, left, False, None, scale))
    for name, left, temperature in _temperatures(canaries):
        if abs(temperature - 1.0) > tolerance:
            fit = judged(Cause.SAMPLING_CHANGED, name, left, name == BOTH, None, temperature)
            fits.append(replace(fit, base_share=_left_of_base(canaries, temperature)) if name == BOTH else fit)
    return tuple(sorted((fit for fit in fits if fit.energy > 0), key=lambda fit: (fit.share, fit.raw, fit.name)))


def matching_signatures(fits: Sequence[SignatureFit]) -> tuple[SignatureFit, ...]:
    """The signature that the naming rule allows, and after it those of its cause that cannot be distinguished from it.

    fits: from ``signature_fits``. Empty where none passes. The runner-up is the best signature of *another* cause:
    neighbouring layers, or 4 bits and 3, are alike and must not keep each other from being named.
    """
    if not fits or fits[0].share > LEFT_OVER:
        return ()
    best = fits[0]
    runner_up = min((fit.share for fit in fits if fit.cause is not best.cause), default=math.inf)
    if not best.share < runner_up or best.share > RUNNER_UP * runner_up:
        return ()
    same_cause = [fit for fit in fits[1:] if fit.cause is best.cause and fit.share <= LEFT_OVER]
    return (best, *(fit for fit in same_cause if RUNNER_UP * fit.raw <= best.raw))


def temperature_of_both(fits: Sequence[SignatureFit]) -> tuple[SignatureFit, ...]:
    """The temperature of both endpoints, where it explains what the base itself has changed too; else empty.

    In place it is the strength 1 / T, wherever the adapter's effect grows evenly with its strength, and then neither
    leaves half of what the other does. But a strength says nothing of the base: that both moved by one and the same
    factor would be chance. fits: from ``signature_fits``
    """
    best = next((fit for fit in fits if fit.cause is Cause.SAMPLING_CHANGED and fit.moves_base), None)
    if best is None or max(best.share, best.base_share) > LEFT_OVER:
        return ()
    alike = (Cause.SAMPLING_CHANGED, Cause.WRONG_STRENGTH)
    runner_up = min((fit.share for fit in fits if fit.cause not in alike), default=math.inf)
    return (best,) if best.share <= RUNNER_UP * runner_up else ()


def strength_to_replay(measurements: Sequence[Measurement]) -> float | None:
    """The strength at which the accepted adapter's answers are worth a replay: the one that fits the present answers
    best by the curve through the strengths known so far, and is none of them.

    measurements: finite ones of one adapter, at least one
    By the spline or by its chords, whichever leaves less. None where the best leaves nothing above noise, so that a
    replay would tell nothing new, or so much that another strength is not what is at fault. Decides no cause: that is
    what the replayed answers leave over.
    """
    canaries = [canary_vectors(m) for m in measurements]
    energy = sum(float((d := c.served - c.live - c.ready.delta) @ d) for c in canaries)
    noise = sum(c.noise for c in canaries)
    fit = _strength_fit(canaries)
    if fit.canaries < len(canaries):
        return None
    fits = sorted((left - noise, scale) for scale, left in (fit.solve(), fit.solve_on_chords()))
    if not 0 < fits[0][0] <= ROUGHLY * (energy - noise):
        return None
    known = np.array(fit.scales)
    return next((scale for _, scale in fits if np.abs(known - scale).min() > KNOT_APART * scale), None)


def _strength_fit(canaries: Sequence[CanaryVectors]) -> StrengthFit:
    fit = StrengthFit()
    for c in canaries:
        fit.add(c.served - c.live, tuple(c.ready.scales.tolist()), c.ready.effect_curve.knots)
    return fit


def _strengths(canaries: Sequence[CanaryVectors]) -> Iterator[tuple[str, float, float]]:
    """(name, scale, left) of the curve of strengths: each canary's own nearest point, and one strength for all."""
    nearest = [nearest_scale(c.ready.effect_curve, c.served - c.live) for c in canaries]
    yield EACH_ITS_OWN, float(np.mean([scale for scale, _ in nearest])), sum(left for _, left in nearest)
    fit = _strength_fit(canaries)
    if fit.canaries == len(canaries):
        yield ONE_FOR_ALL, *fit.solve()


def _recorded(canaries: Sequence[CanaryVectors]) -> _Residuals:
    residuals = _Residuals()
    present = {band.band for c in canaries for band in c.ready.bands}
    for c in canaries:
        now = c.served - c.live
        members = {part_of(fault)[0] for fault in c.ready.faults if fault.kind is FaultKind.TAKEN_AWAY}
        for name, other in c.ready.others.items():
            cause = Cause.COMPOSITION_INTERFERENCE if name in members else Cause.WRONG_ADAPTER
            residuals.add(cause, name, now - c.ready.from_base(other), FaultKind.OTHER_ADAPTER)
        for fault, answers in c.ready.faults.items():
            _add_fault(residuals, c, fault, answers)
        residuals.add_mixtures(c)
        for name, off in POSITIONS.items():
            if present & set(off):
                residuals.add(Cause.PARTLY_APPLIED, name, now - _switched_off(c.ready.delta, c.ready.bands, off))
    return residuals


def _add_fault(residuals: _Residuals, c: CanaryVectors, fault: Fault, answers: Recorded) -> None:
    """One recorded fault; mixtures are interpolation paths and added together. A prompt that is read by the base, its
    last token included, is no reused cache: there the adapter is off in prefill."""
    cause, name = CAUSES.get(fault.kind), fault.name
    if cause is None or cause is Cause.COMPOSITION_INTERFERENCE:
        return
    if fault == Fault(FaultKind.PREFILLED, ""):
        cause, name = Cause.PARTLY_APPLIED, PREFILL
    served = c.ready.from_base(answers.served)
    if answers.live_base is None:
        residuals.add(cause, name, c.served - c.live - served, fault.kind)
        return
    left = np.concatenate([c.served - served, c.live - c.ready.from_base(answers.live_base)])
    residuals.add(cause, name, left, fault.kind, base=True)


def _switched_off(effect: Doubles, bands: Sequence[BandPart], off: Sequence[Band]) -> Doubles:
    """The effect without these positions."""
    rest = effect.copy()
    for band in bands:
        if band.band in off:
            rest[band.part] = 0.0
    return rest


def _left_of_base(canaries: Sequence[CanaryVectors], temperature: float) -> float:
    """Share of what the base's own answers have changed, beyond noise, that this temperature leaves; inf within it."""
    fit = FactorFit()
    for c in canaries:
        golden = c.ready.vector(c.ready.base)
        fit.add(golden + c.live, golden)
    noise = sum(c.noise_of_base for c in canaries)
    energy = sum(float(c.live @ c.live) for c in canaries) - noise
    return max(fit.left_at(1.0 / temperature) - noise, 0.0) / energy if energy > 0 else math.inf


def _temperatures(canaries: Sequence[CanaryVectors]) -> Iterator[tuple[str, float, float]]:
    """(whose answers, left, temperature). log p at temperature T is log p / T but for a constant, which <., .> ignores.

    Of the adapter's endpoint alone, on the base as it answers now; and of both endpoints.
    """
    served_only, both = FactorFit(), FactorFit()
    for c in canaries:
        golden = c.ready.vector(c.ready.base)
        served_only.add(golden + c.served, golden + c.live + c.ready.delta)
        both.add(np.concatenate([golden + c.served, golden + c.live]), np.concatenate([golden + c.ready.delta, golden]))
    for name, fit in ((SERVED_ONLY, served_only), (BOTH, both)):
        u, left = fit.solve()
        if u > 0:
            yield name, left, 1.0 / u
