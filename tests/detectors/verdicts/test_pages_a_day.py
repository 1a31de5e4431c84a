"""How often does a fault that stays, or comes and goes, page? Days of canaries, a round a minute, through the monitor.

Pages of the first day while two good rounds alone ended an incident, with the same rounds: 10 % of the canaries beyond
for good 14, one faulty replica of four 207, three rounds bad and three good 240, thirty and thirty 24, one bad in
twenty 72, and a clean fault with its repair 1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from detectors.canaries.tolerance import Tolerances
from detectors.kinds import adapter_gap
from detectors.monitor import Monitor
from detectors.records import BaseRound, Identity, Measurement, Reason, Round
from detectors.verdicts.incident import Rules
from tests.detectors.synthetic import EVERY_S, POOL, drawn, measurement

RULES = Rules(Tolerances(), log_threshold=21.5)
ROUNDS_A_DAY, DRAWS = 1440, 16
IDENTITY = Identity("sha256:old", "sha256:old")
# Round and generator -> how many canaries of the pool are beyond tolerance in it.
Shape = Callable[[int, np.random.Generator], int]
FAULT, REPAIRED = 200, 260


def clean(beyond: int) -> Shape:
    return lambda number, _: beyond if FAULT <= number < REPAIRED else 0


SHAPES: dict[str, tuple[Shape, tuple[int, int]]] = {
    "10 % of the canaries for good": (lambda _number, _: POOL // 10, (1, 2)),
    "one replica of four": (lambda _number, generator: POOL if generator.random() < 0.25 else 0, (5, 1)),
    "three bad, three good": (lambda number, _: POOL * (number // 3 % 2), (2, 0)),
    "thirty bad, thirty good": (lambda number, _: POOL * (number // 30 % 2), (5, 0)),
    "one bad of twenty": (lambda number, _: POOL * (number % 20 == 19), (5, 0)),
    "a clean fault": (clean(POOL), (1, 0)),
}


@cache
def drawn_measurement(canary: int, fault: str, draws: int) -> Measurement:
    return drawn(measurement("router", canary, fault), draws)


def round_of(number: int, beyond: int, generator: np.random.Generator) -> BaseRound:
    times = np.bincount(generator.integers(POOL, size=DRAWS), minlength=POOL)
    rows = tuple(
        drawn_measurement(2 * canary, "scale:0.5" if canary < beyond else "healthy", int(draws))
        for canary, draws in enumerate(times)
        if draws
    )
    at = number * EVERY_S
    return BaseRound("smol", number, at, (Round("router", "smol", number, at, rows, IDENTITY),))


def reasons(shape: Shape, rounds: int, seed: int = 0) -> list[Reason]:
    monitor = Monitor(RULES, {"adapter_gap": adapter_gap.Config()})
    generator = np.random.default_rng(seed)
    found = []
    for number in range(rounds):
        judged = monitor.observe(round_of(number, shape(number, generator), generator))
        found.append(judged.verdicts[0].reason)
    return found


@pytest.mark.parametrize("name", SHAPES)
def test_pages_of_the_first_day_and_of_the_second(name: str) -> None:
    shape, most = SHAPES[name]
    found = reasons(shape, 2 * ROUNDS_A_DAY)
    pages = tuple(found[day * ROUNDS_A_DAY :][:ROUNDS_A_DAY].count(Reason.ALARM) for day in (0, 1))
    assert pages[0] >= 1 and pages[0] <= most[0] and pages[1] <= most[1]


@pytest.mark.parametrize("seed", range(2))
def test_one_benign_outlier_of_twenty_does_not_hold_an_incident_open_that_was_reopened_often(seed: int) -> None:
    """Five pages ask for 32 good rounds, and 56 % of the rounds have the outlier among their draws."""
    calm = 280
    found = reasons(lambda number, _: POOL * (number // 30 % 2) if number < calm else 1, calm + 200, seed)
    assert (found[:calm].count(Reason.ALARM), found[calm:].count(Reason.RESOLVED)) == (5, 1)


@pytest.mark.parametrize(("beyond", "latest"), [(POOL, 1), (POOL // 2, 2), (POOL // 4, 5), (POOL // 5, 5)])
@pytest.mark.parametrize("seed", range(4))
def test_a_clean_fault_is_one_page_and_resolves_soon_after_the_repair(beyond: int, latest: int, seed: int) -> None:
    found = reasons(clean(beyond), REPAIRED + 10, seed)
    assert (found.count(Reason.ALARM), found.count(Reason.RESOLVED)) == (1, 1)
    assert 1 <= found.index(Reason.RESOLVED) - REPAIRED <= latest
