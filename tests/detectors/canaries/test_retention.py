from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from detectors.canaries.retention import curve_through, energy, measure, nearest_scale, prepare, weights
from detectors.errors import Refused, ShapeMismatch
from detectors.records import Comparison, Summary
from tests.detectors.synthetic import log_probs, measurement, reference, summarise

CANARIES = range(12)


@pytest.mark.parametrize("canary", CANARIES)
@pytest.mark.parametrize("fault", ["healthy", "scale:2", "swapped", "elsewhere:0.5"])
def test_mass_outside_is_what_the_kept_tokens_lost_beyond_both_golden_sides(canary: int, fault: str) -> None:
    known, seen = reference("router", canary), measurement("router", canary, fault)

    def outside(side: Summary) -> np.ndarray:  # type: ignore[type-arg]
        return 1.0 - np.where(known.kept >= 0, np.exp(side.log_probs), 0.0).sum(axis=-1)

    most = np.maximum(outside(known.golden_adapter), outside(known.golden_base))
    plain = np.maximum(outside(seen.comparison.served) - most, 0.0).mean()
    assert seen.mass_outside == pytest.approx(plain, abs=1e-5)
    assert (fault, seen.mass_outside == 0.0) != ("healthy", False)
    assert fault != "elsewhere:0.5" or seen.mass_outside > 0.1


def test_weights_sum_to_one_over_kept_tokens_and_are_zero_at_pads() -> None:
    known = reference("router", 0)
    w = weights(known)
    assert (known.kept < 0).any()
    assert np.allclose(w.sum(axis=-1), 1.0)
    assert not w[known.kept < 0].any()


@pytest.mark.parametrize("canary", CANARIES)
def test_healthy_adapter_has_retention_one_and_nothing_else(canary: int) -> None:
    seen = measurement("router", canary, "healthy")
    assert seen.retention == pytest.approx(1.0, abs=1e-9)
    assert seen.scale == pytest.approx(1.0, abs=1e-6)
    assert max(seen.distortion, seen.base_shift, seen.scale_misfit, seen.kl_golden_served) < 1e-9
    assert seen.gap_ratio == pytest.approx(1.0)
    assert (seen.top1_agreement, seen.finite) == (1.0, True)


@pytest.mark.parametrize("canary", CANARIES)
def test_base_under_the_adapters_name_has_retention_zero(canary: int) -> None:
    seen = measurement("router", canary, "not_applied")
    assert (seen.retention, seen.scale, seen.gap_ratio) == (0.0, 0.0, 0.0)
    assert seen.frozen_retention == pytest.approx(0.0, abs=1e-6)
    assert seen.kl_golden_served > 0.1


@pytest.mark.parametrize(
    "true, tolerance", [(1.05, 0.01), (0.95, 0.01), (1.5, 1e-5), (2.0, 1e-5), (0.3, 0.01), (0.6, 0.02)]
)
def test_effective_scale_finds_a_known_lora_scale_on_and_between_knots(true: float, tolerance: float) -> None:
    found = [measurement("router", c, f"scale:{true}") for c in CANARIES]
    assert np.mean([m.scale for m in found]) == pytest.approx(true, abs=tolerance)
    assert max(m.scale_misfit for m in found) < 1e-3
    # Read alone, retention would be far from it: the effect bends.
    if true == 2.0:
        assert np.mean([m.retention for m in found]) < 1.6


def test_retention_and_distortion_split_the_energy_of_the_present_effect() -> None:
    seen = measurement("router", 3, "junk")
    ready = prepare(seen.comparison.reference)
    now = ready.vector(
        np.where(ready.mask, seen.comparison.served.log_probs, 0.0).astype(np.float64)
        - np.where(ready.mask, seen.comparison.live_base.log_probs, 0.0)
    )
    assert (seen.retention**2 + seen.distortion) * ready.energy == pytest.approx(float(now @ now))


def test_a_base_that_moved_shows_as_base_shift_and_in_the_frozen_figures() -> None:
    seen = measurement("router", 1, "swapped")
    assert seen.base_shift > 0.05
    assert seen.frozen_retention != pytest.approx(seen.retention, abs=1e-3)
    assert measurement("router", 1, "scale:0.5").base_shift == 0.0


def test_a_constant_shift_of_the_served_logits_changes_no_direction() -> None:
    plain = measurement("router", 0, "scale:0.5")
    served = plain.comparison.served
    shifted = replace(plain.comparison, served=Summary(served.log_probs + np.float32(3), served.rest, served.top1))
    moved = measure(shifted)
    assert moved.retention == pytest.approx(plain.retention, abs=1e-6)
    assert moved.scale == pytest.approx(plain.scale, abs=1e-6)
    assert moved.distortion == pytest.approx(plain.distortion, abs=1e-6)


def test_what_stands_in_the_pads_is_never_read() -> None:
    plain = measurement("router", 0, "scale:0.5")
    pads = plain.comparison.reference.kept < 0
    served = plain.comparison.served
    noisy = served.log_probs.copy()
    noisy[pads] = np.nan
    again = measure(replace(plain.comparison, served=Summary(noisy, served.rest, served.top1)))
    assert (again.retention, again.scale, again.kl_golden_served) == (
        plain.retention,
        plain.scale,
        plain.kl_golden_served,
    )


def test_prepared_and_unprepared_measurements_agree() -> None:
    prepared = measurement("router", 2, "scale:0.5")
    again = measure(replace(prepared.comparison, reference=reference("router", 2)))
    assert again.scale == prepared.scale and again.kl_golden_served == prepared.kl_golden_served


def test_a_prepared_reference_is_not_prepared_again_and_its_constants_follow_its_arrays() -> None:
    ready = prepare(reference("router", 0))
    assert prepare(ready) is ready and measure(replace(measurement("router", 0, "healthy").comparison, reference=ready))
    swapped = replace(ready, golden_adapter=ready.golden_base, golden_base=ready.golden_adapter)
    assert np.allclose(swapped.delta, -ready.delta) and swapped.energy == pytest.approx(ready.energy)


def test_kl_over_the_whole_vocabulary_is_bounded_below_by_kept_tokens_and_rest() -> None:
    a, y = log_probs(0, "router"), log_probs(0, "router", 0.5)
    whole = float(np.mean(np.sum(np.exp(a) * (a - y), axis=-1)))
    kept = measurement("router", 0, "scale:0.5").kl_golden_served
    assert 0.6 * whole < kept <= whole + 1e-6


@pytest.mark.parametrize("fault", ["scale:0.5", "swapped", "adapter:rewriter", "not_applied"])
def test_both_divergences_and_the_frozen_shift_agree_with_their_plain_formulae(fault: str) -> None:
    seen = measurement("router", 4, fault)
    known, served, live = seen.comparison.reference, seen.comparison.served, seen.comparison.live_base
    mask = known.kept >= 0

    def kl(p: Summary, q: Summary) -> float:
        kept = np.exp(p.log_probs[mask]) * (p.log_probs[mask] - q.log_probs[mask])
        return float((kept.sum() + (np.exp(p.rest) * (p.rest - q.rest)).sum()) / len(p.rest))

    assert seen.kl_golden_served == pytest.approx(kl(known.golden_adapter, served), abs=1e-5)
    assert seen.kl_served_golden == pytest.approx(kl(served, known.golden_adapter), abs=1e-5)
    assert seen.kl_served_base == pytest.approx(kl(served, live), abs=1e-5)
    assert seen.kl_base_served == pytest.approx(kl(live, served), abs=1e-5)
    y, a = (np.where(mask, p.log_probs, 0.0).astype(np.float64) for p in (served, known.golden_adapter))
    apart = y - a
    w = weights(known)
    centred = apart - (w * apart).sum(axis=-1, keepdims=True)
    assert seen.frozen_shift * energy(known) == pytest.approx(float((w * centred**2).sum()), abs=1e-6)


@pytest.mark.parametrize("where", ["served", "live_base"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_bad_numbers_give_a_measurement_that_says_so(where: str, value: float) -> None:
    plain = measurement("router", 0, "healthy")
    summary: Summary = getattr(plain.comparison, where)
    broken = summary.log_probs.copy()
    broken[0, 0] = value
    changed: dict[str, Any] = {where: Summary(broken, summary.rest, summary.top1)}
    seen = measure(replace(plain.comparison, **changed))
    assert not seen.finite
    assert math.isnan(seen.retention) and math.isnan(seen.scale) and math.isnan(seen.frozen_shift)
    assert seen.bands == ()


def test_an_empty_rest_bucket_is_a_number() -> None:
    plain = measurement("router", 0, "healthy").comparison
    empty = Summary(plain.served.log_probs, np.full_like(plain.served.rest, -np.inf), plain.served.top1)
    seen = measure(replace(plain, served=empty))
    assert seen.finite and math.isfinite(seen.kl_golden_served)


def test_an_adapter_without_effect_is_refused_in_words() -> None:
    known = reference("router", 0)
    silent = replace(known, golden_adapter=known.golden_base)
    assert energy(silent) == 0.0 < energy(known)
    with pytest.raises(Refused, match="an adapter with an effect"):
        prepare(silent)


def test_arrays_that_do_not_fit_are_refused() -> None:
    plain = measurement("router", 0, "healthy").comparison
    short = summarise(log_probs(0, "router")[:3], plain.reference.kept[:3])
    with pytest.raises(ShapeMismatch, match="served"):
        measure(replace(plain, served=short))
    with pytest.raises(ShapeMismatch, match="curve"):
        prepare(replace(plain.reference, curve=plain.reference.curve[:2]))


def test_nearest_scale_on_a_straight_line_is_the_projection_clipped_to_its_ends() -> None:
    curve = curve_through(np.array([[0.0, 0.0], [1.0, -1.0], [2.0, -2.0]]), np.array([0, 1, 2], np.float32))
    assert nearest_scale(curve, np.array([1.5, -1.5])) == pytest.approx((1.5, 0.0))
    assert nearest_scale(curve, np.array([-3.0, 3.0])) == pytest.approx((0.0, 18.0))
    assert nearest_scale(curve, np.array([3.0, -3.0])) == pytest.approx((2.0, 2.0))


def test_measuring_changes_nothing_of_what_it_was_given() -> None:
    plain: Comparison = measurement("router", 0, "scale:0.5").comparison
    before = [a.copy() for a in (plain.served.log_probs, plain.live_base.log_probs, plain.reference.curve)]
    measure(plain)
    after = (plain.served.log_probs, plain.live_base.log_probs, plain.reference.curve)
    assert all(np.array_equal(x, y) for x, y in zip(before, after, strict=True))
