from __future__ import annotations

import math

import pytest

from detectors.errors import Refused
from detectors.evidence.alarm_budget import (
    YEAR_S,
    expected_false_pages_per_year,
    log_threshold,
    rounds_per_year,
    stream_rounds_per_year,
)


def test_a_fleet_of_a_thousand_adapters_on_four_channels_a_round_a_minute_needs_21_and_a_half_nats() -> None:
    assert log_threshold(stream_rounds_per_year({60.0: 4000}), 1.0) == pytest.approx(math.log(2.1e9), abs=0.01)


def test_threshold_and_expected_pages_are_inverse() -> None:
    stream_rounds = stream_rounds_per_year({300.0: 12, 10.0: 3})
    nats = log_threshold(stream_rounds, 0.5)
    assert expected_false_pages_per_year(stream_rounds, nats) == pytest.approx(0.5)


def test_each_stream_counts_with_the_rounds_of_its_own_cadence() -> None:
    assert stream_rounds_per_year({60.0: 2, 10.0: 3}) == pytest.approx(YEAR_S * (2 / 60 + 3 / 10))
    assert stream_rounds_per_year({60.0: 5}) == 5 * rounds_per_year(60.0), "one cadence: to the last bit"


def test_a_budget_that_cannot_be_overspent_needs_no_evidence_below_zero() -> None:
    assert log_threshold(1.0, 100.0) == 0.0


@pytest.mark.parametrize(
    "call",
    [
        lambda: rounds_per_year(0),
        lambda: stream_rounds_per_year({60.0: 0}),
        lambda: stream_rounds_per_year({0.0: 1}),
        lambda: log_threshold(0, 1),
        lambda: log_threshold(1, 0),
    ],
)
def test_nonsense_is_refused(call: object) -> None:
    with pytest.raises(Refused):
        call()  # type: ignore[operator]
