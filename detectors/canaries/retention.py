"""How much of exactly what the adapter should do is left, canary by canary?

Every figure of a canary is computed here. A change moves figures that are stored, shown and compared with recorded
noise floors, and with them what enrolled golden records promise.

Symbols of docs/mathematics.md#reference-points: b golden base, a golden adapter, y served under the adapter's name, z
served under the base's name; ``delta = a - b``, ``delta' = y - z``. Everything is computed in float64 over the kept
tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.canaries.kl_divergence import TokenDistributions, both_ways, token_distributions, with_zero_pads
from detectors.canaries.position_bands import BandPart, band_figures, band_parts
from detectors.errors import Refused, ShapeMismatch
from detectors.records import Bools, Comparison, Floats, Measurement, Reference, Summary

Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """A piecewise-linear curve with all that does not depend on the target; made by ``curve_through``.

    scales: (S,) ascending; knots: (S, N); sizes: (S,) |knot|^2; lengths: (S - 1,) |step|^2 of knot to knot
    offsets: (S - 1,) inner product of each step with the knot it starts at
    """

    scales: Floats
    knots: Doubles
    sizes: Doubles
    lengths: Doubles
    offsets: Doubles


@dataclass(frozen=True, slots=True, eq=False)
class PreparedReference(Reference):
    """A reference with its constants, which are derived whenever one is made; ``prepare`` makes it.

    mask: (T, K) False where padded; weights, base: (T, K); N is the number of kept tokens
    delta: (N,) the golden effect, as a vector whose plain dot product is <u, v>
    effect_curve: the recorded curve, likewise
    energy: |delta|^2 in nats squared, > 0; kl_healthy: KL(a || b) in nats per token
    accepted: token distributions of a over kept tokens and rest
    outside: (T,) probability outside the kept tokens, the larger one of a's and b's
    bands: where in those vectors each stretch of positions lies

    Raises as ``prepare`` does.
    """

    mask: Bools = field(init=False)
    weights: Doubles = field(init=False)
    base: Doubles = field(init=False)
    delta: Doubles = field(init=False)
    effect_curve: Curve = field(init=False)
    energy: float = field(init=False)
    kl_healthy: float = field(init=False)
    accepted: TokenDistributions = field(init=False)
    outside: Doubles = field(init=False)
    bands: tuple[BandPart, ...] = field(init=False)

    def __post_init__(self) -> None:
        # Frozen: what is derived here is set once. ``dataclasses.replace`` comes through here too, so that no constant
        # outlives the arrays it was derived from.
        for name, value in _constants(self).items():
            object.__setattr__(self, name, value)

    def vector(self, displacement: Doubles) -> Doubles:
        """(..., T, K) differences of log-probabilities -> (..., N) such that ``u @ v`` is the inner product <u, v>."""
        return _vector(displacement, self.weights, self.mask)

    def from_base(self, log_probs: Floats) -> Doubles:
        """(T, K) log-probabilities -> (N,) their displacement from the golden base."""
        return self.vector(with_zero_pads(log_probs, self.mask) - self.base)


def weights(reference: Reference) -> Doubles:
    """(T, K) share of each kept token in the inner product: the mean of golden adapter's and base's probabilities.

    Each position sums to 1, pads hold 0. The rest bucket is left out: it holds more than half the weight at one
    position in twelve and wrecks the retention. Source: docs/mathematics.md#inner-product.
    """
    mask = reference.kept >= 0
    both = np.exp(with_zero_pads(reference.golden_adapter.log_probs, mask)) + np.exp(
        with_zero_pads(reference.golden_base.log_probs, mask)
    )
    both = np.where(mask, both, 0.0)
    total = both.sum(axis=-1, keepdims=True)
    return both / np.where(total > 0, total, 1.0)


def energy(reference: Reference) -> float:
    """|delta|^2 in nats squared, summed over positions: the size of the adapter's effect on this canary. >= 0."""
    mask = reference.kept >= 0
    a, b = (
        with_zero_pads(reference.golden_adapter.log_probs, mask),
        with_zero_pads(reference.golden_base.log_probs, mask),
    )
    vector = _vector(a - b, weights(reference), mask)
    return float(vector @ vector)


def prepare(reference: Reference) -> PreparedReference:
    """The reference with its constants; one that is prepared already comes back as it is.

    Preparing costs more than measuring, and a Measurement holds the reference it was measured against. So whoever
    measures a round prepares each reference once, and the diagnosis of the round finds it prepared.

    Raises ShapeMismatch when its arrays do not fit each other, and Refused when the adapter has no effect on it:
    retention has no denominator there, and enrolment leaves such a canary out of both halves.
    """
    if isinstance(reference, PreparedReference):
        return reference
    return PreparedReference(**{f.name: getattr(reference, f.name) for f in fields(Reference)})


def unprepared(reference: Reference) -> Reference:
    """The reference without its constants, which are as large as itself: for a round that is kept beyond its
    judgement. The arrays are shared."""
    return Reference(**{f.name: getattr(reference, f.name) for f in fields(Reference)})


def _constants(reference: Reference) -> dict[str, Any]:
    """The derived fields of a PreparedReference, by name."""
    _check_reference(reference)
    mask, w = reference.kept >= 0, weights(reference)
    a, b = (with_zero_pads(side.log_probs, mask) for side in (reference.golden_adapter, reference.golden_base))
    delta = _vector(a - b, w, mask)
    size = float(delta @ delta)
    if not size > 0:
        raise Refused(f"canary {reference.canary}", f"|delta|^2 = {size}", "an adapter with an effect on it, > 0")
    accepted = token_distributions(reference.golden_adapter, mask)
    return {
        "mask": mask,
        "weights": w,
        "base": b,
        "delta": delta,
        "effect_curve": curve_through(_vector(with_zero_pads(reference.curve, mask) - b, w, mask), reference.scales),
        "energy": size,
        "kl_healthy": both_ways(accepted, token_distributions(reference.golden_base, mask))[0],
        "accepted": accepted,
        "outside": np.maximum(_outside(reference.golden_adapter), _outside(reference.golden_base)),
        "bands": band_parts(mask, delta),
    }


def measure(comparison: Comparison) -> Measurement:
    """One canary of one round in numbers. A reference that is not prepared is prepared for this call only.

    retention  lambda = <delta, delta'> / |delta|^2
    distortion rho = |delta' - lambda delta|^2 / |delta|^2, an energy: the score compares its square root
    base_shift B = |z - b|^2 / |delta|^2
    scale      of the nearest point of the recorded curve to delta'; scale_misfit is what is left, over |delta|^2
    frozen_*   the same with y - b in place of delta'; frozen_shift = |y - a|^2 / |delta|^2
    mass_outside  mean over positions of max(0, y's probability outside the kept tokens - the larger one of a's and b's)
    kl_*       both ways, of y against a and of y against z; gap_ratio = KL(y || z) / KL(a || b)
    bands      retention and distortion of each stretch of positions (position_bands.py)

    NaN or infinite log-probabilities at a kept token give ``finite=False`` and nan figures, never an exception.
    Raises ShapeMismatch when served, live base and reference do not fit. Source: docs/mathematics.md#retention.
    """
    ready = prepare(comparison.reference)
    _check_comparison(comparison, ready)
    if not (_is_finite(comparison.served, ready.mask) and _is_finite(comparison.live_base, ready.mask)):
        return _unmeasured(comparison)
    y, z = token_distributions(comparison.served, ready.mask), token_distributions(comparison.live_base, ready.mask)
    served, live = ready.vector(y.logs[:, :-1] - ready.base), ready.vector(z.logs[:, :-1] - ready.base)
    in_place, from_accepted = served - live, served - ready.delta
    retention, distortion = _along(in_place, ready)
    frozen_retention, frozen_distortion = _along(served, ready)
    scale, misfit = nearest_scale(ready.effect_curve, in_place)
    frozen_scale, _ = nearest_scale(ready.effect_curve, served)
    kl_golden_served, kl_served_golden = both_ways(ready.accepted, y)
    kl_served_base, kl_base_served = both_ways(y, z)
    return Measurement(
        comparison=comparison,
        retention=retention,
        distortion=distortion,
        base_shift=float(live @ live) / ready.energy,
        frozen_retention=frozen_retention,
        frozen_distortion=frozen_distortion,
        frozen_shift=float(from_accepted @ from_accepted) / ready.energy,
        mass_outside=float(np.mean(np.maximum(_outside(comparison.served) - ready.outside, 0.0))),
        scale=scale,
        scale_misfit=misfit / ready.energy,
        frozen_scale=frozen_scale,
        kl_golden_served=kl_golden_served,
        kl_served_golden=kl_served_golden,
        kl_served_base=kl_served_base,
        kl_base_served=kl_base_served,
        gap_ratio=kl_served_base / max(ready.kl_healthy, 1e-12),
        top1_agreement=float(np.mean(comparison.served.top1 == comparison.reference.golden_adapter.top1)),
        finite=True,
        bands=band_figures(in_place, ready.delta, ready.bands),
    )


def curve_through(knots: Doubles, scales: Floats) -> Curve:
    """knots: (S, N) what the adapter does at each recorded scale, as vectors; scales: (S,) ascending, S >= 2"""
    steps = np.diff(knots, axis=0)
    sizes = np.einsum("sn,sn->s", knots, knots)
    lengths = np.einsum("sn,sn->s", steps, steps)
    return Curve(scales, knots, sizes, lengths, np.einsum("sn,sn->s", steps, knots[:-1]))


def nearest_scale(curve: Curve, target: Doubles) -> tuple[float, float]:
    """Effective LoRA scale: that of the nearest point to ``target`` on the piecewise-linear curve through its knots.

    target: (N,) what the adapter does now, y - z or y - b. Comes back as (scale, energy left in nats squared); the
    scale lies within the recorded ones. Retention is neither linear nor monotone in the LoRA scale and is never
    inverted alone. Source: docs/mathematics.md#effective-scale.

    It is the foot of the perpendicular on each segment, clipped to it; the nearest segment wins. Distances are compared
    by the expanded square, which is quick; what is left is taken directly, because the expanded square of a perfect fit
    would be rounding.
    """
    # Not kept: a round holds the curve of every canary that it measured, and the steps are as large as the knots.
    steps = np.diff(curve.knots, axis=0)
    forward = steps @ target - curve.offsets
    share = np.clip(forward / np.where(curve.lengths > 0, curve.lengths, 1.0), 0.0, 1.0)
    to_knots = curve.sizes - 2.0 * (curve.knots @ target)
    best = int(np.argmin(to_knots[:-1] - 2.0 * share * forward + share**2 * curve.lengths))
    left = target - curve.knots[best] - share[best] * steps[best]
    low, high = float(curve.scales[best]), float(curve.scales[best + 1])
    return low + float(share[best]) * (high - low), float(left @ left)


def _along(vector: Doubles, ready: PreparedReference) -> tuple[float, float]:
    share = float(vector @ ready.delta) / ready.energy
    across = vector - share * ready.delta
    return share, float(across @ across) / ready.energy


def _vector(displacement: Doubles, w: Doubles, mask: Bools) -> Doubles:
    """Centred per position by its weighted mean, so that a constant shift of the logits vanishes."""
    mean = np.sum(w * displacement, axis=-1, keepdims=True)
    vector: Doubles = (np.sqrt(w) * (displacement - mean))[..., mask]
    return vector


def _outside(summary: Summary) -> Doubles:
    """(T,) probability outside the kept tokens."""
    return np.exp(np.asarray(summary.rest, dtype=np.float64))


def _is_finite(summary: Summary, mask: Bools) -> bool:
    rest_is_number = not bool(np.any(np.isnan(summary.rest) | (summary.rest == np.inf)))
    return rest_is_number and bool(np.all(np.isfinite(summary.log_probs[mask])))


def _unmeasured(comparison: Comparison) -> Measurement:
    """Every figure nan: there is no number that would be honest."""
    named = ("comparison", "finite", "bands")
    return Measurement(
        comparison, finite=False, bands=(), **{f.name: math.nan for f in fields(Measurement) if f.name not in named}
    )


def _check_reference(reference: Reference) -> None:
    shape = reference.kept.shape
    shapes = {
        "golden adapter": reference.golden_adapter.log_probs.shape,
        "golden base": reference.golden_base.log_probs.shape,
        **{f"adapter {name}": other.shape for name, other in reference.others.items()},
    }
    for part, part_shape in shapes.items():
        if part_shape != shape:
            raise ShapeMismatch(f"canary {reference.canary}, {part}", part_shape, f"{shape}, as the kept tokens")
    if reference.curve.shape != (len(reference.scales), *shape) or len(reference.scales) < 2:
        raise ShapeMismatch(f"canary {reference.canary}, curve", reference.curve.shape, f"(scales >= 2, *{shape})")


def _check_comparison(comparison: Comparison, ready: PreparedReference) -> None:
    for side, summary in (("served", comparison.served), ("live base", comparison.live_base)):
        if summary.log_probs.shape != ready.mask.shape:
            raise ShapeMismatch(f"canary {ready.canary}, {side}", summary.log_probs.shape, f"{ready.mask.shape}")
