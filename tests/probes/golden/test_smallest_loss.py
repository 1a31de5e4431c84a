"""The smallest loss that canaries show: it pages in time, and half a step less does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from detectors.canaries.tolerance import Tolerances
from probes.golden.record import Golden
from probes.golden.smallest_loss import ROUNDS, STEP, smallest_loss
from probes.golden.statistical_power import AlarmSettings, loss_of
from tests.probes.goldens import golden

SETTINGS: dict[str, Any] = {"log_threshold": 21.5, "token_budget": 512}


def record(**changes: Any) -> Golden:
    return replace(golden(lengths=tuple(12 + index % 5 for index in range(48))), **({"settings": SETTINGS} | changes))


@pytest.mark.parametrize("tolerance", [0.05, 0.1])
def test_it_lies_just_beyond_tolerance_and_noise_and_the_step_below_pages_too_late(tolerance: float) -> None:
    known = record(tolerances=Tolerances(scale=tolerance))
    smallest = smallest_loss(known)
    assert smallest is not None and smallest.draws is not None and smallest.draws <= ROUNDS * 32
    assert tolerance < 1 - smallest.strength <= tolerance + 3 * STEP
    pool = [canary.reference for canary in known.pool]
    less = loss_of("router", pool, smallest.strength + STEP, known.tolerances, AlarmSettings(21.5, 32))
    assert less.draws is None or less.draws > ROUNDS * 32


def test_a_record_without_power_or_without_its_settings_shows_none() -> None:
    assert smallest_loss(record(settings={})) is None
    without = record()
    assert smallest_loss(replace(without, power=replace(without.power, monitorable=False))) is None


def test_a_tolerance_of_more_than_half_leaves_nothing_to_show() -> None:
    assert smallest_loss(record(tolerances=Tolerances(scale=0.7))) is None
