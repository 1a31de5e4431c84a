"""The benign tier can alarm: a pool with more outliers than are tolerated does, one with as many does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.canaries.benign_tier import SMALL_A, Recorded, against_others, count_alarms
from benchmarks.canaries.recorded_answers import accepted, answered_by, not_applied, shipped
from benchmarks.zoo.enrolled_base import Measured

GOLDEN = shipped("ticket-router")
HEALTHY, LOST = (answered_by(GOLDEN, answer) for answer in (accepted, not_applied))


def pool(lost: int) -> Measured:
    names = [canary.id for canary in GOLDEN.pool]
    return {name: (LOST if place < lost else HEALTHY)[name] for place, name in enumerate(names)}


def off(scale: float) -> Measured:
    return {name: replace(m, scale=scale, distortion=0.0) for name, m in pool(0).items()}


def floors(measured: Measured) -> list[float]:
    return [m.comparison.reference.noise.scale for m in measured.values()]


@pytest.mark.parametrize(("lost", "least", "most"), [(0, 0, 0), (1, 0, 3), (3, 30, 3000)])
def test_alarms_are_counted_where_more_than_the_tolerated_share_is_beyond(lost: int, least: int, most: int) -> None:
    """3,000 rounds: with one outlier of 24 the null holds, 3 alarms are expected at most; with three it does not."""
    rounds = 3000
    assert rounds / SMALL_A == 3
    alarms = count_alarms({GOLDEN.adapter: {"a": pool(lost)}}, {GOLDEN.adapter: GOLDEN}, 0.05, rounds)
    assert least <= alarms <= most


def test_a_class_is_scored_against_floors_that_neither_it_nor_a_release_contributed_to() -> None:
    recorded: Recorded = {GOLDEN.adapter: {"a": off(1.01), "b": off(0.98), "left out": off(1.2), "release": off(0.7)}}
    scored = against_others(recorded, ["left out"], ["release"])[GOLDEN.adapter]
    assert list(scored) == ["left out"]
    assert floors(scored["left out"]) == pytest.approx([0.02] * len(GOLDEN.pool))
    released = against_others(recorded, ["release"], ["release"])[GOLDEN.adapter]
    assert floors(released["release"]) == pytest.approx([0.2] * len(GOLDEN.pool))


def test_alarms_rise_as_the_tolerance_falls_below_the_noise() -> None:
    scored = {GOLDEN.adapter: {"a": off(1.008)}}
    alarms = [count_alarms(scored, {GOLDEN.adapter: GOLDEN}, tolerance, 300) for tolerance in (0.05, 0.001)]
    assert alarms[0] == 0 and alarms[1] > 100
