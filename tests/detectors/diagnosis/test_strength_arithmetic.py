"""What gives a wrong strength, by rank and alpha: the direction of each, and which coincide for which adapter."""

from __future__ import annotations

import math

import pytest

from detectors.diagnosis.strength_arithmetic import slips

# r, alpha, the scale that it was accepted with, the scale that the engine applies -> the slip
CASES = [
    (8, 20.0, 20 / 8, 20 / math.sqrt(8), "rsLoRA switched on"),
    (8, 20.0, 20 / math.sqrt(8), 20 / 8, "rsLoRA switched off"),
    (16, 40.0, 40 / 16, 40.0, "not divided by r"),
    (16, 40.0, 40 / 16, 40 / 16 / 16, "divided by r twice"),
    (8, 24.0, 24 / 8, 1.0, "alpha / r left out"),
    (8, 24.0, 24 / math.sqrt(8), 1.0, "alpha / sqrt(r) left out"),
    (8, 20.0, 20 / 8, 40 / 8, "twice"),
    (8, 20.0, 20 / 8, 10 / 8, "half"),
]


@pytest.mark.parametrize(("rank", "alpha", "accepted", "served", "slip"), CASES)
@pytest.mark.parametrize("off", [0.972, 1.0, 1.028])
def test_each_slip_has_its_name_in_its_direction_within_three_percent(
    rank: int, alpha: float, accepted: float, served: float, slip: str, off: float
) -> None:
    assert slips(off * served / accepted, rank, alpha) == (slip,)


@pytest.mark.parametrize(("rank", "alpha", "accepted", "served", "slip"), CASES)
@pytest.mark.parametrize("off", [0.965, 1.035])
def test_beyond_three_percent_it_has_none(
    rank: int, alpha: float, accepted: float, served: float, slip: str, off: float
) -> None:
    assert slip not in slips(off * served / accepted, rank, alpha)


@pytest.mark.parametrize(
    ("strength", "rank", "alpha", "names"),
    [
        (2.0, 4, 12.0, {"rsLoRA switched on", "twice"}),
        (0.5, 8, 16.0, {"alpha / r left out", "half"}),
        (0.25, 16, 64.0, {"rsLoRA switched off", "alpha / r left out"}),
        (8.0, 8, 16.0, {"not divided by r"}),
        (0.125, 8, 64.0, {"divided by r twice", "alpha / r left out"}),
    ],
)
def test_slips_that_coincide_for_an_adapter_are_all_named(
    strength: float, rank: int, alpha: float, names: set[str]
) -> None:
    assert set(slips(strength, rank, alpha)) == names


def test_without_a_rank_nothing_is_named_and_a_slip_that_changes_nothing_is_none() -> None:
    assert slips(2.0, 0, 0.0) == ()
    assert slips(1.0, 1, 1.0) == ()
    assert slips(1.0, 8, 8.0) == ()
    assert slips(math.sqrt(8), 8, 0.0) == ("rsLoRA switched on",)
