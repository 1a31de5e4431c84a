"""The benchmark of run lengths uses the shipped rule, stays within the null hypothesis, and can fail."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from benchmarks.canaries import run_length
from benchmarks.canaries.run_length import POOL, WORLDS, World, beyond, count_alarms, first_alarms, pools
from detectors.canaries.tolerance import Tolerances
from detectors.canaries.tolerance import beyond_tolerance as shipped
from detectors.records import NoiseFloor
from tests.detectors.synthetic import measurement


def test_its_rule_for_many_canaries_is_the_shipped_one() -> None:
    rng = np.random.default_rng(0)
    deviations, floors = rng.uniform(-0.12, 0.12, 200), rng.uniform(0.0, 0.05, 200)
    tolerances, one = Tolerances(), measurement("router", 0, "healthy")

    def rule(deviation: float, floor: float) -> bool:
        reference = replace(one.comparison.reference, noise=NoiseFloor(floor, 1.0, 1.0))
        seen = replace(one, scale=1.0 + deviation, comparison=replace(one.comparison, reference=reference))
        return shipped(seen, tolerances)

    flags = beyond(deviations, floors, tolerances)
    assert 20 < flags.sum() < 180
    assert flags.tolist() == [rule(d, f) for d, f in zip(deviations, floors, strict=True)]


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
def test_at_most_the_tolerated_share_of_every_pool_is_beyond_in_every_round(world: World) -> None:
    seen = np.stack(list(islice(pools(world, 30, np.random.default_rng(1)), 300)))
    shares = seen.mean(axis=2)
    assert shares.max() <= 0.05
    assert (shares.min() == 0.05) == (not world.left_out)
    assert shares.max() > 0


def test_autocorrelation_keeps_the_same_canaries_beyond() -> None:
    def stay(world: World) -> float:
        seen = np.stack(list(islice(pools(world, 20, np.random.default_rng(2)), 200)))
        return float((seen[1:] & seen[:-1]).sum() / seen[1:].sum())

    assert stay(WORLDS[2]) > 3 * stay(WORLDS[0])


def test_a_pool_beyond_the_null_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three of forty beyond instead of two: shorter than promised, and the identity breaks."""
    honest = count_alarms(WORLDS[2], 50, 500, [100.0])[0]
    assert 50 * 500 / honest > 100
    monkeypatch.setattr(run_length, "LOUD", 3)
    assert 3 / POOL > 0.05
    assert 50 * 500 / count_alarms(WORLDS[2], 50, 500, [100.0])[0] < 100
    tau, m = first_alarms(WORLDS[2], 100.0, 400)
    apart = m - tau
    assert apart.mean() > 3 * apart.std() / math.sqrt(len(apart))
