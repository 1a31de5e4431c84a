from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from detectors.errors import Refused
from detectors.evidence.alarm_budget import (
    YEAR_S,
    expected_false_pages_per_year,
    log_threshold,
    rounds_per_year,
    stream_rounds_per_year,
)
from detectors.evidence.e_process_bank import ProcessArrays, move_counts


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


def test_alarms_of_streams_that_start_again_after_each_are_as_many_as_the_budget_says() -> None:
    """What M had at its alarms and what it has at the end are together the rounds, on average: the proof, as a sum.

    2,000 streams of 300 rounds of one draw at the edge of the null, each started again at each alarm, A = 10.
    """
    streams, rounds, share, a = 2000, 300, 0.05, 10.0
    rows, generator = ProcessArrays.fresh(streams, 8), np.random.default_rng(0)
    alarms, spent = np.zeros(streams), np.zeros(streams)
    for number in range(rounds):
        move_counts(rows, generator.binomial(1, share, streams), 1, share, float(number))
        m = rows.m.mean(axis=1)
        alarmed = np.flatnonzero(m >= a)
        alarms[alarmed] += 1
        spent[alarmed] += m[alarmed]
        for row in alarmed:
            rows.forget(int(row))
    apart = spent + rows.m.mean(axis=1) - rounds
    assert abs(apart.mean()) <= 4 * apart.std() / math.sqrt(streams)
    assert alarms.mean() + 4 * alarms.std() / math.sqrt(streams) < rounds / a
    assert alarms.mean() > 0.2 * rounds / a, "and the bound is not idle: what is missing is overshoot"


def alarms_while_the_threshold_moves(thresholds: Sequence[float], streams: int, seed: int) -> NDArray[np.bool_]:
    """(rounds, streams) of bool: an e-detector at the edge of its null, put to 0 where it alarms."""
    random = np.random.default_rng(seed)
    level, alarms = np.zeros(streams), []
    for threshold in thresholds:
        level = (level + 1.0) * random.choice([0.4, 1.6], streams)
        alarms.append(level >= threshold)
        level = np.where(alarms[-1], 0.0, level)
    return np.array(alarms)


@pytest.mark.parametrize(
    "thresholds",
    [[20.0] * 100 + [80.0] * 100, [80.0] * 100 + [20.0] * 100, ([20.0] * 10 + [80.0] * 10 + [40.0] * 10) * 7],
    ids=["a rise", "a fall", "up and down"],
)
def test_each_alarm_costs_the_threshold_in_force_whatever_the_threshold_does(thresholds: list[float]) -> None:
    """The mean over streams of the sum of A over the alarms is at most the rounds."""
    streams = 20_000
    alarms = alarms_while_the_threshold_moves(thresholds, streams, seed=5)
    cost = (alarms * np.array(thresholds)[:, None]).sum(axis=0)
    assert 0 < cost.mean() < len(thresholds) + 4 * cost.std() / math.sqrt(streams)


def test_after_a_rise_the_alarms_are_those_of_the_rounds_at_each_threshold() -> None:
    streams, before, after = 20_000, 100, 100
    alarms = alarms_while_the_threshold_moves([20.0] * before + [80.0] * after, streams, seed=6).sum(axis=0)
    allowed = before / 20.0 + after / 80.0
    assert 0 < alarms.mean() < allowed + 4 * alarms.std() / math.sqrt(streams)
