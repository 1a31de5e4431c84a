from __future__ import annotations

import numpy as np
import pytest

from detectors.diagnosis.name_encoding import part_of
from detectors.diagnosis.shared_parameter_fits import FactorFit, MixtureFit
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


def test_a_canary_with_other_recorded_points_is_not_counted() -> None:
    path = MixtureFit(FaultKind.STACKED)
    path.add(SIDES[0], {1.0: SIDES[0]})
    path.add(SIDES[1], {0.5: SIDES[1], 1.0: SIDES[1]})
    assert path.canaries == 1


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
