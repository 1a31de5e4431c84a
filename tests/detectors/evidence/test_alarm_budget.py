from __future__ import annotations

import math

import pytest

from detectors.errors import Refused
from detectors.evidence.alarm_budget import expected_false_pages_per_year, log_threshold, rounds_per_year


def test_a_fleet_of_a_thousand_adapters_on_four_channels_a_round_a_minute_needs_21_and_a_half_nats() -> None:
    assert log_threshold(4000, rounds_per_year(60.0), 1.0) == pytest.approx(math.log(2.1e9), abs=0.01)


def test_threshold_and_expected_pages_are_inverse() -> None:
    nats = log_threshold(12, rounds_per_year(300.0), 0.5)
    assert expected_false_pages_per_year(12, rounds_per_year(300.0), nats) == pytest.approx(0.5)


def test_a_budget_that_cannot_be_overspent_needs_no_evidence_below_zero() -> None:
    assert log_threshold(1, 1.0, 100.0) == 0.0


@pytest.mark.parametrize(
    "call", [lambda: rounds_per_year(0), lambda: log_threshold(0, 1, 1), lambda: log_threshold(1, 1, 0)]
)
def test_nonsense_is_refused(call: object) -> None:
    with pytest.raises(Refused):
        call()  # type: ignore[operator]
