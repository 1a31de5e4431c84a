"""How many pages does a fleet send while nothing is wrong? Counted, from the configuration to the notice, and compared
with what the budget allows.

Every canary draw is at the edge of its null, and so is every response. What is allowed is much, so that pages come.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest

from agent.alerting.alert_state import AlertState
from agent.alerting.incidents import step_round
from agent.assemble import log_threshold, monitor_of, stream_counts
from agent.config import Config
from agent.records import NoticeReason
from detectors.evidence.alarm_budget import YEAR_S
from detectors.records import BaseRound
from detectors.traffic_records import TrafficRound
from tests.detectors.record_streams import traffic_score
from tests.detectors.synthetic import EVERY_S, make_round

ADAPTERS = ("router", "rewriter")
ROUNDS, DRAWS, RESPONSES = 24, 8, 6
# Sidecars of a fleet -> pods that are played, of as many fleets as they make.
PODS = {1: 16, 8: 32, 64: 64}
# False pages of one fleet that are allowed in these rounds.
ALLOWED = 40.0


def fleet(sidecars: int) -> Config:
    return Config.model_validate(
        {
            "models": [
                {"name": "smol", "path": "smol", "adapters": [{"name": name, "path": name} for name in ADAPTERS]},
            ],
            "kafka": {"bootstrap_servers": ["127.0.0.1:9"], "topic": "t"},
            "probes": {"every": EVERY_S},
            "alerts": {"sidecars": sidecars, "false_pages_per_year": ALLOWED * YEAR_S / (ROUNDS * EVERY_S)},
        }
    )


@cache
def pages(sidecars: int) -> int:
    """Of all its pods, each with the threshold of a fleet of so many."""
    config = fleet(sidecars)
    return sum(pages_of_pod(config, pod) for pod in range(PODS[sidecars]))


def pages_of_pod(config: Config, pod: int) -> int:
    monitor, states, sent = monitor_of(config), dict[str, AlertState](), 0
    for round in range(ROUNDS):
        number, at = pod * 10_000 + round, round * EVERY_S
        generator = np.random.default_rng([number, 3])
        members = tuple(make_round(name, "edge", number, DRAWS, held_out=0) for name in ADAPTERS)
        scores = tuple(traffic_score("edge", generator, name) for name in ADAPTERS for _ in range(RESPONSES))
        for record in (BaseRound("smol", round, at, members), TrafficRound("smol", round, at, ADAPTERS, scores)):
            states, notices = step_round(states, monitor.observe(record).verdicts, at, "prod")
            sent += sum(notice.reason is NoticeReason.DEGRADED for notice in notices)
    return sent


@pytest.mark.parametrize("sidecars", [1, 8, 64])
def test_a_fleet_sends_no_more_false_pages_than_allowed_however_many_sidecars_it_has(sidecars: int) -> None:
    """16 fleets of one, 4 of eight and one of 64: 40 pages are allowed to each."""
    assert sum(stream_counts(fleet(sidecars)).values()) == 5 * sidecars
    allowed = ALLOWED * PODS[sidecars] / sidecars
    assert 0 < pages(sidecars) < allowed - 4 * math.sqrt(allowed)


def test_a_quarter_of_64_sidecars_that_each_count_as_one_sends_more_than_is_allowed_to_all() -> None:
    """What a fleet did whose sidecars were not counted: each of them had the threshold of one."""
    assert log_threshold(fleet(64)) - log_threshold(fleet(1)) == pytest.approx(math.log(64))
    assert pages(1) - 4 * math.sqrt(pages(1)) > ALLOWED
