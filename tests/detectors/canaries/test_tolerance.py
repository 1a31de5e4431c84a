from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from detectors.canaries.tolerance import (
    Tolerances,
    base_moved,
    base_scores,
    beyond_tolerance,
    blocked_by,
    draw_scores,
    members_needed,
    with_accepted_shift,
)
from detectors.errors import Refused
from detectors.records import BaseRound, CanarySplit, Measurement, NoiseFloor, Reason, Round
from tests.detectors.synthetic import ADAPTERS, POOL, drawn, make_base_round, make_round, measurement

T = Tolerances()


def having(found: Measurement, noise: NoiseFloor | None = None, **figures: Any) -> Measurement:
    known = found.comparison.reference
    if noise is not None:
        known = replace(known, noise=noise)
    return replace(found, comparison=replace(found.comparison, reference=known), **figures)


@pytest.mark.parametrize(
    "wrong",
    [{"scale": 0.0}, {"scale": -1.0}, {"after_release": 0.0}, {"share": 0.0}, {"share": 1.0}, {"scale": float("nan")}],
)
def test_tolerances_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(Refused, match="tolerance"):
        Tolerances(**wrong)


def test_a_tolerance_of_zero_says_what_to_do() -> None:
    with pytest.raises(Refused, match=r"try 0\.05"):
        Tolerances(scale=0.0)
    with pytest.raises(Refused, match="scale of router"):
        Tolerances(per_adapter={"router": 0.0})


def with_figures(**figures: Any) -> Measurement:
    perfect = {"scale": 1.0, "distortion": 0.0, "base_shift": 0.0, "mass_outside": 0.0}
    return replace(measurement("router", 0, "healthy"), **perfect | figures)


@pytest.mark.parametrize(
    "why, figures, wanted",
    [
        ("healthy", {}, False),
        ("within tolerance plus noise", {"scale": 0.9495}, False),
        ("weaker", {"scale": 0.94}, True),
        ("stronger", {"scale": 1.06}, True),
        ("another direction", {"distortion": 0.06**2}, True),
        ("a little of another direction", {"distortion": 0.04**2}, False),
        ("20 % weaker on an int8 base", {"scale": 0.8, "base_shift": 3e-5}, True),
        ("20 % stronger on an int8 base", {"scale": 1.2, "base_shift": 3e-5}, True),
        ("another direction on an int8 base", {"distortion": 0.08**2, "base_shift": 3e-5}, True),
        ("20 % weaker where one kernel moved the base", {"scale": 0.8, "base_shift": 1.3e-5}, True),
        ("10 % weaker after a harmless release", {"scale": 0.9, "base_shift": 0.0015}, False),
        ("12 % weaker after a harmless release", {"scale": 0.88, "base_shift": 0.0015}, True),
        ("another direction after a harmless release", {"distortion": 0.15**2, "base_shift": 0.0015}, False),
        ("more of it", {"distortion": 0.18**2, "base_shift": 0.0015}, True),
        ("24 % weaker on quite another base", {"scale": 0.76, "base_shift": 1.0}, False),
        ("30 % weaker on quite another base", {"scale": 0.7, "base_shift": 1.0}, True),
        ("4 % on tokens outside the kept ones", {"mass_outside": 0.04}, False),
        ("6 % on them", {"mass_outside": 0.06}, True),
        ("6 % on them on quite another base", {"mass_outside": 0.06, "base_shift": 1.0}, True),
        ("no number of the mass outside", {"mass_outside": float("nan")}, True),
        ("no number of the base", {"base_shift": float("nan")}, True),
        ("no number of the strength", {"scale": float("nan")}, True),
        ("no number of the direction", {"distortion": float("nan")}, True),
    ],
)
def test_what_is_beyond_tolerance(why: str, figures: dict[str, Any], wanted: bool) -> None:
    assert beyond_tolerance(with_figures(**figures), T) is wanted


def test_on_a_base_that_has_not_moved_both_legs_have_the_adapters_own_tolerance() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        own, floor, off, across = rng.uniform([0.005, 0.0, -0.3, 0.0], [0.2, 0.05, 0.3, 0.3])
        found = having(with_figures(scale=1.0 + off, distortion=across**2), NoiseFloor(floor, floor / 2, 1e-6))
        beyond = abs(found.scale - 1.0) > own + floor or math.sqrt(found.distortion) > own + floor / 2
        assert beyond_tolerance(found, Tolerances(per_adapter={"router": own})) == beyond


@pytest.mark.parametrize("own", [0.005, 0.05, 0.4])
def test_what_is_allowed_grows_with_the_base_shift_and_on_strength_up_to_a_cap(own: float) -> None:
    tolerances = Tolerances(per_adapter={"router": own})
    shifts = [0.0, *np.logspace(-9, 2, 200)]
    strength = [tolerances.allowed_deviation("router", shift) for shift in shifts]
    distortion = [tolerances.allowed_distortion("router", shift) for shift in shifts]
    assert strength == sorted(strength) and distortion == sorted(distortion)
    assert strength[0] == distortion[0] == own
    assert strength[-1] == max(own, tolerances.after_release) and distortion[-1] > 25


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("release, strength", [("int8", 0.8), ("int8", 0.9), ("int8", 1.2), ("", 0.8), ("tuned", 0.75)])
def test_an_adapter_of_another_strength_is_beyond_on_a_base_that_hardly_moved(
    adapter: str, release: str, strength: float
) -> None:
    fault = f"{release}+scale:{strength}" if release else f"scale:{strength}"
    assert draw_scores(make_round(adapter, fault), T).all()


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("strength", [1.0, 0.9])
def test_a_template_that_changed_widens_no_tolerance(adapter: str, strength: float) -> None:
    """Other token ids are other hidden states under both names. The base has not moved, as its replay of the accepted
    ids says: a tenth less of the adapter is as far beyond as it was before, and what the template changes counts too.
    """
    now = make_round(adapter, f"moved:0.3+scale:{strength}")
    accepted = make_round(adapter, f"scale:{strength}").measurements
    assert min(m.base_shift for m in now.measurements) > 0.01 and max(m.base_shift for m in accepted) < 1e-9
    beyond = draw_scores(replace(now, raw=accepted), T)
    at_no_shift = [
        beyond_tolerance(replace(m, base_shift=0.0), T) for m in now.measurements for _ in range(m.comparison.draws)
    ]
    assert np.array_equal(beyond, at_no_shift) and beyond.mean() > 0.8
    assert beyond.mean() > draw_scores(now, T).mean()


def test_the_base_shift_of_the_accepted_ids_counts_where_base_and_template_changed() -> None:
    now, accepted = make_round("router", "moved:0.3+scale:0.9"), make_round("router", "tuned+scale:0.9")
    from_accepted = with_accepted_shift(replace(now, raw=accepted.measurements[1:]))
    shifts = [m.base_shift for m in from_accepted.measurements]
    # The first canary renders to its accepted ids as it is: it has no second replay.
    assert shifts == [now.measurements[0].base_shift, *(m.base_shift for m in accepted.measurements[1:])]
    assert [m.scale for m in from_accepted.measurements] == [m.scale for m in now.measurements]
    assert with_accepted_shift(now) is now


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("release", ["int8", "improved", "tuned"])
def test_a_harmless_release_is_within_tolerance_on_every_canary(adapter: str, release: str) -> None:
    pool = [measurement(adapter, 2 * i, release) for i in range(POOL)]
    assert not any(beyond_tolerance(m, T) for m in pool)


def test_the_canarys_own_noise_is_added_to_the_tolerance() -> None:
    weaker = having(measurement("router", 0, "healthy"), NoiseFloor(0.02, 0.02, 1e-6), scale=0.94)
    assert not beyond_tolerance(weaker, T)
    assert beyond_tolerance(replace(weaker, scale=0.92), T)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_an_adapter_that_gives_all_probability_to_one_token_outside_the_kept_ones_is_beyond(adapter: str) -> None:
    """On the kept tokens only a constant is added: strength and direction are as accepted."""
    pool = [measurement(adapter, 2 * i, "elsewhere:0.9999") for i in range(POOL)]
    for m in pool:
        assert m.retention == pytest.approx(1.0, abs=1e-5) and m.scale == pytest.approx(1.0, abs=1e-5)
        assert m.distortion < 1e-9 and m.base_shift == 0.0
    assert all(beyond_tolerance(m, T) for m in pool)
    assert not any(beyond_tolerance(measurement(adapter, 2 * i, "elsewhere:0.03"), T) for i in range(POOL))


def test_the_floor_of_the_mass_outside_is_added_too() -> None:
    found = with_figures(mass_outside=0.06)
    assert beyond_tolerance(having(found, NoiseFloor(0.02, 0.02, 1e-6)), T), "records made before have none"
    assert not beyond_tolerance(having(found, NoiseFloor(0.02, 0.02, 1e-6, mass_outside=0.02)), T)


def test_an_adapter_may_have_a_tolerance_of_its_own() -> None:
    weaker = replace(measurement("router", 0, "healthy"), scale=0.9)
    assert beyond_tolerance(weaker, T)
    assert not beyond_tolerance(weaker, Tolerances(per_adapter={"router": 0.15}))


def test_bad_numbers_are_beyond_and_block_the_round() -> None:
    assert beyond_tolerance(measurement("router", 0, "nan"), T)
    assert blocked_by(make_round("router", "nan")) is Reason.BAD_NUMBERS
    assert blocked_by(make_round("router", "blocked")) is Reason.UNREADABLE
    assert blocked_by(Round("router", "smol", 0, 0.0, ())) is Reason.NOT_REPLAYED_YET
    assert blocked_by(make_round("router")) is None


def test_a_canary_drawn_twice_counts_twice_and_held_out_ones_never() -> None:
    far, near = measurement("router", 0, "scale:0.5"), measurement("router", 2, "healthy")
    held_out = drawn(measurement("router", 1, "scale:0.5"), 0)
    seen = Round("router", "smol", 0, 0.0, (drawn(far, 3), held_out, drawn(near, 2)))
    assert draw_scores(seen, T).tolist() == [True, True, True, False, False]
    assert draw_scores(seen, T).dtype == np.bool_


def test_the_base_has_moved_when_several_held_out_canaries_show_it_and_never_one_alone() -> None:
    assert not base_moved(make_round("router"), T)
    assert base_moved(make_round("router", "improved"), T)
    one = [drawn(measurement("router", 1, "improved"), 0)]
    rest = [drawn(measurement("router", 2 * i + 1, "healthy"), 0) for i in range(1, 8)]
    assert not base_moved(Round("router", "smol", 0, 0.0, (*one, *rest)), T)


@pytest.mark.parametrize("spread, most", [(0.0, 0.002), (0.25, 0.002), (0.5, 0.03)])
def test_a_base_whose_noise_is_that_of_its_battery_has_not_moved(spread: float, most: float) -> None:
    """Five configurations of an engine that answers with noise, and a round like them; each configuration's noise is
    e^(spread Z) times the median. Own floors are exceeded by one canary in six then, always on several of 16."""
    rng, held_out = np.random.default_rng(0), [drawn(measurement("router", 2 * i + 1, "healthy"), 0) for i in range(16)]
    moved = 0
    for _ in range(1000):
        shifts = 1e-4 * rng.gamma(5, 1 / 5, (6, 16)) * np.exp(2 * spread * rng.normal(size=(6, 1)))
        floors = [NoiseFloor(1e-4, 1e-3, float(floor)) for floor in shifts[:5].max(axis=0)]
        canaries = tuple(
            having(m, floor, base_shift=float(shift))
            for m, floor, shift in zip(held_out, floors, shifts[5], strict=True)
        )
        moved += base_moved(Round("router", "smol", 0, 0.0, canaries), T)
    assert moved / 1000 <= most


def test_a_base_that_moved_by_more_than_its_measured_noise_has_moved() -> None:
    held_out = [drawn(measurement("router", 2 * i + 1, "healthy"), 0) for i in range(16)]
    for shift, wanted in ((3e-4, False), (5e-4, True)):
        canaries = tuple(having(m, NoiseFloor(1e-4, 1e-3, 1e-4), base_shift=shift) for m in held_out)
        assert base_moved(Round("router", "smol", 0, 0.0, canaries), T) is wanted


@pytest.mark.parametrize("release", ["healthy", "int8", "tuned", "swapped"])
def test_a_drawn_canarys_score_does_not_depend_on_what_else_was_replayed(release: str) -> None:
    """Neither on what was drawn with it nor on the held-out canaries: each is judged by its own base shift."""
    mine = replace(measurement("router", 0, "healthy"), scale=0.9)
    others = [measurement("router", 2 * i, release) for i in range(1, 10)]
    held_out = [drawn(measurement("router", 2 * i + 1, release), 0) for i in range(8)]
    for among in ((mine,), (mine, *others), (mine, *others, *held_out)):
        assert draw_scores(Round("router", "smol", 0, 0.0, among), T)[0]


def test_a_base_scores_where_enough_of_its_members_do() -> None:
    def share(*faults: str) -> float:
        return float(base_scores(make_base_round({f"a{i}": fault for i, fault in enumerate(faults)}), T).mean())

    lost, well = "not_applied", "healthy"
    assert share(lost, lost) == share(lost, lost, lost) == share(*[lost] * 4) == 1.0
    assert share(lost, well) == share(lost, lost, well) == share(lost, lost, lost, well) == 0.0
    assert share(lost, lost, lost, lost, well) == 1.0
    assert share(lost, lost, lost, well, well) == 0.0


def test_a_blocked_member_does_not_count_among_those_that_are_needed() -> None:
    faults = {"router": "not_applied", "rewriter": "not_applied", "extractor": "healthy"}
    assert not base_scores(make_base_round(faults), T).any()
    assert base_scores(make_base_round(faults | {"extractor": "blocked"}), T).all()


def test_outliers_of_two_members_meet_by_chance_alone() -> None:
    """Both have one outlier in twenty, the first canary in the order of the round; paired in that order they meet."""
    faults = {"router": "edge", "rewriter": "edge"}
    seen = np.concatenate([base_scores(make_base_round(faults, n, draws=32), T) for n in range(400)])
    assert abs(seen.mean() - 0.05**2) < 4 * (0.05**2 / len(seen)) ** 0.5


def test_a_base_with_one_measured_member_has_no_scores() -> None:
    scores = base_scores(make_base_round({"router": "not_applied", "rewriter": "blocked"}), T)
    assert len(scores) == 0 and scores.dtype == np.bool_


def test_members_with_different_numbers_of_draws_are_paired_as_far_as_both_go() -> None:
    members = (make_round("router", "not_applied", draws=16), make_round("rewriter", "not_applied", draws=9))
    assert base_scores(BaseRound("smol", 0, 0.0, members), T).tolist() == [True] * 9


@pytest.mark.parametrize("share", [0.05, 0.01, 0.3, 1 / 3, 0.9])
def test_the_members_needed_are_the_fewest_that_keep_the_tolerated_share(share: float) -> None:
    """By the exact distribution, outlier by outlier, for every base of 2 to 200 members."""
    exact = Fraction(share)
    counts = [Fraction(1)]  # the chances of 0, 1, ... outliers among the members that are not broken
    for others in range(1, 101):
        one_more = zip([*counts, Fraction(0)], [Fraction(0), *counts], strict=True)
        counts = [within * (1 - exact) + beyond * exact for within, beyond in one_more]
        for broken in {others - 1, others} - {0}:
            needed = members_needed(share, broken + others)
            assert broken < needed <= broken + others
            assert sum(counts[needed - broken :]) <= exact < sum(counts[needed - broken - 1 :])


@pytest.mark.parametrize("members, wanted", [(2, 2), (3, 3), (4, 4), (5, 4), (10, 7), (40, 24), (100, 56), (200, 110)])
def test_how_many_of_a_base_are_needed_at_the_default_share(members: int, wanted: int) -> None:
    assert members_needed(0.05, members) == wanted


def test_of_two_members_both_are_needed_at_any_share() -> None:
    """One of them broken, the chance of both is the share itself: a last digit must not decide."""
    shares = np.random.default_rng(0).random(10_000)
    assert {members_needed(float(share), 2) for share in shares} == {2}


def test_every_measurement_in_the_toy_world_is_of_the_half_it_says() -> None:
    seen = make_round("router")
    assert {m.comparison.reference.split for m in seen.measurements if m.comparison.draws} == {CanarySplit.SELECTED}
    assert {m.comparison.reference.split for m in seen.measurements if not m.comparison.draws} == {CanarySplit.HELD_OUT}
