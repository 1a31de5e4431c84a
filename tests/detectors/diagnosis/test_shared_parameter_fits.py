from __future__ import annotations

import numpy as np
import pytest

from detectors.diagnosis.name_encoding import part_of
from detectors.diagnosis.shared_parameter_fits import FactorFit, MixtureFit, StrengthFit
from detectors.records import Fault, FaultKind

RNG = np.random.default_rng(3)
SIDES = RNG.standard_normal((3, 40))


def bent(w: float) -> np.ndarray:
    """A curve that starts at 0 and is no straight line."""
    return w * SIDES[0] + w**2 * SIDES[1] + w**3 * SIDES[2]


@pytest.mark.parametrize("true", [0.1, 0.35, 0.6, 0.75])
def test_the_part_on_a_bent_path_through_enough_recorded_points_is_found(true: float) -> None:
    path = MixtureFit(FaultKind.AVERAGED)
    for size in (1.0, 2.0, 0.5):  # canaries speak loudly and softly, and share one part
        path.add(size * bent(true), {w: size * bent(w) for w in (0.25, 0.5, 1.0)})
    part, left = path.solve()
    assert part == pytest.approx(true, abs=0.006) and path.canaries == 3
    assert left < 1e-3 * sum(float(size * bent(true) @ (size * bent(true))) for size in (1.0, 2.0, 0.5))


def test_one_recorded_point_is_a_straight_line_and_what_lies_off_it_is_left() -> None:
    path = MixtureFit(FaultKind.STACKED)
    path.add(0.5 * SIDES[0] + SIDES[1], {1.0: SIDES[0] + 2 * SIDES[2]})
    part, left = path.solve()
    plain = [
        float(np.sum((0.5 * SIDES[0] + SIDES[1] - w * (SIDES[0] + 2 * SIDES[2])) ** 2)) for w in (part, part + 0.1)
    ]
    assert left == pytest.approx(plain[0]) and left < plain[1]


def test_what_goes_the_other_way_is_no_part() -> None:
    path = MixtureFit(FaultKind.STACKED)
    path.add(-SIDES[0], {1.0: SIDES[0]})
    assert path.solve()[1] > float(SIDES[0] @ SIDES[0])


def test_the_share_of_a_member_that_is_taken_away_is_searched_up_to_all_of_its_weight() -> None:
    path = MixtureFit(FaultKind.TAKEN_AWAY)
    path.add(bent(0.3), {0.3: bent(0.3), 0.6: bent(0.6)})
    part, left = path.solve()
    assert part == pytest.approx(0.3, abs=0.006) and left < 1e-6


def test_a_canary_with_other_recorded_points_is_not_counted() -> None:
    path = MixtureFit(FaultKind.STACKED)
    path.add(SIDES[0], {1.0: SIDES[0]})
    path.add(SIDES[1], {0.5: SIDES[1], 1.0: SIDES[1]})
    assert path.canaries == 1


@pytest.mark.parametrize("true", [0.07, 0.65, 1.4, 1.75, 2.83, 6.0])
def test_one_strength_of_all_canaries_is_found_by_the_spline_and_nearly_by_its_chords(true: float) -> None:
    def effect(scale: float) -> np.ndarray:
        return np.tanh(scale * SIDES[0]) + 0.2 * scale * SIDES[1]

    scales = (0.0, 0.125, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0, 8.0)
    fit = StrengthFit()
    for size in (1.0, 2.0, 0.5):
        fit.add(size * effect(true), scales, size * np.stack([effect(scale) for scale in scales]))
    scale, left = fit.solve()
    on_chords, more = fit.solve_on_chords()
    assert scale == pytest.approx(true, rel=0.03) and left < 0.01 * float(effect(true) @ effect(true))
    low, high = max(s for s in scales if s < true), min(s for s in scales if s > true)
    assert low <= on_chords <= high and more >= 0.0


def test_a_strength_that_was_replayed_is_found_to_a_quarter_percent_and_leaves_next_to_nothing() -> None:
    def effect(scale: float) -> np.ndarray:
        return np.tanh(3 * scale * SIDES[0]) + 0.2 * np.sin(scale) * SIDES[1]

    scales = (0.0, 0.5, 1.0, 2.0, 2.83, 4.0, 8.0)
    fit = StrengthFit()
    fit.add(effect(2.83), scales, np.stack([effect(scale) for scale in scales]))
    scale, left = fit.solve()
    assert scale == pytest.approx(2.83, rel=0.0025) and left < 1e-4 * float(effect(2.83) @ effect(2.83))


def test_a_factor_common_to_all_canaries_and_what_it_leaves() -> None:
    ray = FactorFit()
    for side in SIDES:
        ray.add(0.8 * side, side)
    u, left = ray.solve()
    assert u == pytest.approx(0.8) and left == pytest.approx(0.0, abs=1e-9)
    assert FactorFit().solve() == (1.0, 0.0)


@pytest.mark.parametrize(
    "kind, name, part",
    [
        (FaultKind.STACKED, "rewriter", ("rewriter", 1.0)),
        (FaultKind.AVERAGED, "rewriter", ("rewriter", 0.5)),
        (FaultKind.STACKED, "rewriter*0.5", ("rewriter", 0.5)),
        (FaultKind.AVERAGED, "a*b*0.25", ("a*b", 0.25)),
        (FaultKind.STACKED, "odd*name", ("odd*name", 1.0)),
    ],
)
def test_the_part_is_in_the_name(kind: FaultKind, name: str, part: tuple[str, float]) -> None:
    assert part_of(Fault(kind, name)) == part
