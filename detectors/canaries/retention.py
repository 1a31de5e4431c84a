"""How much of exactly what the adapter should do is left, canary by canary?

Symbols of docs/mathematics.md#reference-points: b golden base, a golden adapter, y served under the adapter's name, z
served under the base's name; ``delta = a - b``, ``delta' = y - z``. Everything is computed in float64 over the kept
tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from detectors.canaries.kl_divergence import TokenDistributions, both_ways, clean, law
from detectors.canaries.position_bands import BandPart, figures, stretches
from detectors.errors import Refused, ShapeMismatch
from detectors.records import Bools, Comparison, Floats, Measurement, Reference, Summary

Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """A piecewise-linear curve and what of it is the same for every target; made by ``_curve``.

    scales: (S,) ascending; knots, steps: (S, N) and (S - 1, N); sizes: (S,) |knot|^2; lengths: (S - 1,) |step|^2
    offsets: (S - 1,) of each step with the knot it starts at
    """

    scales: Floats
    knots: Doubles
    steps: Doubles
    sizes: Doubles
    lengths: Doubles
    offsets: Doubles


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """All that is constant of one reference. Who measures it more than once may keep this and hand it to ``measure``.

    mask: (T, K) False where padded; weights, base: (T, K); N is the number of kept tokens
    delta: (N,) the golden effect, as a vector whose plain dot product is <u, v>; curve: the recorded one, likewise
    energy: |delta|^2 in nats squared, > 0; kl_healthy: KL(a || b) in nats per token
    accepted: the law of a over kept tokens and rest; bands: where in those vectors each stretch of positions lies
    """

    reference: Reference
    mask: Bools
    weights: Doubles
    base: Doubles
    delta: Doubles
    curve: Curve
    energy: float
    kl_healthy: float
    accepted: TokenDistributions
    bands: tuple[BandPart, ...]

    def vector(self, displacement: Doubles) -> Doubles:
        """(..., T, K) log-probabilities apart -> (..., N) such that ``u @ v`` is the inner product <u, v>."""
        return _vector(displacement, self.weights, self.mask)


def weights(reference: Reference) -> Doubles:
    """(T, K) share of each kept token in the inner product: the mean of golden adapter's and base's probabilities.

    Each position sums to 1, pads hold 0. The rest bucket is left out: it holds more than half the weight at one
    position in twelve and wrecks the retention. Source: docs/mathematics.md#inner-product.
    """
    mask = reference.kept >= 0
    both = np.exp(clean(reference.golden_adapter.log_probs, mask)) + np.exp(
        clean(reference.golden_base.log_probs, mask)
    )
    both = np.where(mask, both, 0.0)
    total = both.sum(axis=-1, keepdims=True)
    return both / np.where(total > 0, total, 1.0)


def energy(reference: Reference) -> float:
    """|delta|^2 in nats squared, summed over positions: how loudly the adapter speaks on this canary. >= 0."""
    mask = reference.kept >= 0
    a, b = clean(reference.golden_adapter.log_probs, mask), clean(reference.golden_base.log_probs, mask)
    vector = _vector(a - b, weights(reference), mask)
    return float(vector @ vector)


def prepare(reference: Reference) -> Prepared:
    """The constants of a reference.

    Raises ShapeMismatch when its arrays do not fit each other, and Refused when the adapter has no effect on it:
    retention has no denominator there, and enrolment leaves such a canary out of both halves.
    """
    _check_reference(reference)
    mask = reference.kept >= 0
    w = weights(reference)
    a, b = clean(reference.golden_adapter.log_probs, mask), clean(reference.golden_base.log_probs, mask)
    delta = _vector(a - b, w, mask)
    size = float(delta @ delta)
    if not size > 0:
        raise Refused(f"canary {reference.canary}", f"|delta|^2 = {size}", "an adapter with an effect on it, > 0")
    curve = _curve(_vector(clean(reference.curve, mask) - b, w, mask), reference.scales)
    accepted = law(reference.golden_adapter, mask)
    healthy, _ = both_ways(accepted, law(reference.golden_base, mask))
    return Prepared(reference, mask, w, b, delta, curve, size, healthy, accepted, stretches(mask, delta))


def measure(comparison: Comparison, prepared: Prepared | None = None) -> Measurement:
    """One canary of one round in numbers.

    prepared: of the same reference, where the caller keeps it; else made here

    retention  lambda = <delta, delta'> / |delta|^2
    distortion rho = |delta' - lambda delta|^2 / |delta|^2, an energy: the score compares its square root
    base_shift B = |z - b|^2 / |delta|^2
    scale      of the nearest point of the recorded curve to delta'; scale_misfit is what is left, over |delta|^2
    frozen_*   the same with y - b in place of delta'; frozen_shift = |y - a|^2 / |delta|^2
    kl_*       both ways, of y against a and of y against z; gap_ratio = KL(y || z) / KL(a || b)
    bands      retention and distortion of each stretch of positions (position_bands.py)

    NaN or infinite log-probabilities at a kept token give ``finite=False`` and nan figures, never an exception.
    Raises ShapeMismatch when served, live base and reference do not fit. Source: docs/mathematics.md#retention.
    """
    ready = prepared if prepared is not None else prepare(comparison.reference)
    _check_comparison(comparison, ready)
    if not (_is_finite(comparison.served, ready.mask) and _is_finite(comparison.live_base, ready.mask)):
        return _unmeasured(comparison)
    y, z = law(comparison.served, ready.mask), law(comparison.live_base, ready.mask)
    served, live = ready.vector(y.logs[:, :-1] - ready.base), ready.vector(z.logs[:, :-1] - ready.base)
    in_place, from_accepted = served - live, served - ready.delta
    retention, distortion = _along(in_place, ready)
    frozen_retention, frozen_distortion = _along(served, ready)
    scale, misfit = _nearest(ready.curve, in_place)
    frozen_scale, _ = _nearest(ready.curve, served)
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
        bands=figures(in_place, ready.delta, ready.bands),
    )


def nearest_scale(curve: Doubles, scales: Floats, target: Doubles, w: Doubles) -> tuple[float, float]:
    """Effective LoRA scale: the nearest point to ``target`` on the piecewise-linear curve through the recorded knots.

    curve: (S, T, K) what the adapter does at each recorded scale, a_s - b; finite, pads anything finite
    scales: (S,) ascending, S >= 2
    target: (T, K) what it does now, y - z or y - b
    w: (T, K) from ``weights``

    Comes back as (scale, energy left in nats squared). The scale lies within the recorded ones. Retention is neither
    linear nor monotone in the LoRA scale and is never inverted alone. Source: docs/mathematics.md#effective-scale.
    """
    mask = w > 0
    knots = _vector(np.asarray(curve, np.float64), w, mask)
    return _nearest(_curve(knots, scales), _vector(np.asarray(target, np.float64), w, mask))


def _curve(knots: Doubles, scales: Floats) -> Curve:
    steps = np.diff(knots, axis=0)
    sizes = np.einsum("sn,sn->s", knots, knots)
    lengths = np.einsum("sn,sn->s", steps, steps)
    return Curve(scales, knots, steps, sizes, lengths, np.einsum("sn,sn->s", steps, knots[:-1]))


def _nearest(curve: Curve, target: Doubles) -> tuple[float, float]:
    """Foot of the perpendicular on each segment, clipped to it; the nearest segment wins.

    Distances are compared by the expanded square, which is quick; what is left is taken directly, because the expanded
    square of a perfect fit would be rounding.
    """
    forward = curve.steps @ target - curve.offsets
    share = np.clip(forward / np.where(curve.lengths > 0, curve.lengths, 1.0), 0.0, 1.0)
    to_knots = curve.sizes - 2.0 * (curve.knots @ target)
    best = int(np.argmin(to_knots[:-1] - 2.0 * share * forward + share**2 * curve.lengths))
    left = target - curve.knots[best] - share[best] * curve.steps[best]
    low, high = float(curve.scales[best]), float(curve.scales[best + 1])
    return low + float(share[best]) * (high - low), float(left @ left)


def _along(vector: Doubles, ready: Prepared) -> tuple[float, float]:
    share = float(vector @ ready.delta) / ready.energy
    across = vector - share * ready.delta
    return share, float(across @ across) / ready.energy


def _vector(displacement: Doubles, w: Doubles, mask: Bools) -> Doubles:
    """Centred per position by its weighted mean, so that a constant shift of the logits vanishes."""
    mean = np.sum(w * displacement, axis=-1, keepdims=True)
    vector: Doubles = (np.sqrt(w) * (displacement - mean))[..., mask]
    return vector


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
    wanted = {
        "golden adapter": reference.golden_adapter.log_probs.shape,
        "golden base": reference.golden_base.log_probs.shape,
        **{f"adapter {name}": other.shape for name, other in reference.others.items()},
    }
    for what, seen in wanted.items():
        if seen != shape:
            raise ShapeMismatch(f"canary {reference.canary}, {what}", seen, f"{shape}, as the kept tokens")
    if reference.curve.shape != (len(reference.scales), *shape) or len(reference.scales) < 2:
        raise ShapeMismatch(f"canary {reference.canary}, curve", reference.curve.shape, f"(scales >= 2, *{shape})")


def _check_comparison(comparison: Comparison, ready: Prepared) -> None:
    mine, theirs = comparison.reference, ready.reference
    if mine is not theirs and (mine.canary, mine.golden) != (theirs.canary, theirs.golden):
        raise Refused("prepared reference", (theirs.canary, theirs.golden), f"{(mine.canary, mine.golden)}")
    for what, summary in (("served", comparison.served), ("live base", comparison.live_base)):
        if summary.log_probs.shape != ready.mask.shape:
            raise ShapeMismatch(f"canary {mine.canary}, {what}", summary.log_probs.shape, f"{ready.mask.shape}")
