"""How many pages does a fleet send while nothing is wrong? Counted, from the configuration to the notice, and compared
with what the budget allows.

Every canary draw is at the edge of its null, and so is every response. What is allowed is much, so that pages come.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np
import orjson
import pytest

from agent.alerting.alert_state import AlertState
from agent.alerting.checkpoint import StateFile
from agent.alerting.fleet import ALONE, GoneState
from agent.alerting.incidents import step_round
from agent.alerting.judge import Judge
from agent.alerting.judged_bases import JudgedBases
from agent.assemble import log_threshold, monitor_of, stream_counts
from agent.config import Config
from agent.records import Notice, NoticeReason, SavedState, ScoredResponses
from detectors.evidence.alarm_budget import YEAR_S
from detectors.records import BaseRound
from detectors.traffic_records import TrafficRound
from tests.detectors.record_streams import of_second_base, traffic_score
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
        for record in of_round(pod, round):
            states, notices = step_round(states, monitor.observe(record).verdicts, record.at, "prod")
            sent += sum(notice.reason is NoticeReason.DEGRADED for notice in notices)
    return sent


def of_round(pod: int, round: int) -> tuple[BaseRound, TrafficRound]:
    number, at = pod * 10_000 + round, round * EVERY_S
    generator = np.random.default_rng([number, 3])
    members = tuple(make_round(name, "edge", number, DRAWS, held_out=0) for name in ADAPTERS)
    scores = tuple(traffic_score("edge", generator, name) for name in ADAPTERS for _ in range(RESPONSES))
    return BaseRound("smol", round, at, members), TrafficRound("smol", round, at, ADAPTERS, scores)


@pytest.mark.parametrize("sidecars", [1, 8, 64])
def test_a_fleet_sends_no_more_false_pages_than_allowed_however_many_sidecars_it_has(sidecars: int) -> None:
    """16 fleets of one, 4 of eight and one of 64: 40 pages are allowed to each. Nobody asks for the
    base itself: that stream is priced, and silent."""
    assert sum(stream_counts(fleet(sidecars)).values()) == 6 * sidecars
    allowed = ALLOWED * PODS[sidecars] / sidecars
    assert 0 < pages(sidecars) < allowed - 4 * math.sqrt(allowed)


def shared(sidecars: int) -> Config:
    """Two bases, that two witnesses share out."""
    one = fleet(sidecars)
    adapters = [{"name": f"{name}2", "path": name} for name in ADAPTERS]
    second = type(one.models[0]).model_validate({"name": "smol2", "path": "smol", "adapters": adapters})
    return one.model_copy(update={"models": (*one.models, second), "role": "witness"})


def pages_of_witnesses(config: Config, fleets: int, folder: Path) -> int:
    return sum(pages_of_fleet(config, number, folder / f"{number}") for number in range(fleets))


def pages_of_fleet(config: Config, number: int, folder: Path) -> int:
    """Of one owner a base; a third of the way the second base goes to the first witness, then both go to the second."""
    stored: dict[str, SavedState] = {}
    bases = {model.name: [adapter.name for adapter in model.adapters] for model in config.models}
    witnesses = [
        Judge(
            monitor_of(config),
            "prod",
            StateFile(folder / f"{witness}"),
            lambda _: ALONE,
            JudgedBases(
                bases, True, lambda wanted, _: [as_gone(stored.pop(base)) for base in wanted if base in stored]
            ),
        )
        for witness in range(2)
    ]
    owners = dict(zip(bases, (0, 1), strict=True))
    for base, owner in owners.items():
        witnesses[owner].gained([base], 0.0)
    sent = 0
    for round in range(ROUNDS):
        if round in (ROUNDS // 3, 2 * ROUNDS // 3):
            gains = 0 if round == ROUNDS // 3 else 1
            for base in [base for base, owner in owners.items() if owner != gains]:
                stored |= {saved.base: saved for saved in witnesses[owners[base]].lost([base], round * EVERY_S)}
                witnesses[gains].gained([base], round * EVERY_S)
                owners[base] = gains
        for own, (base, owner) in enumerate(owners.items()):
            for record in of_round(2 * number + own, round):
                moved = record if base == "smol" else of_second_base(record)
                responses = ScoredResponses(base, moved.at, (), moved, {}) if isinstance(moved, TrafficRound) else moved
                found = [w(responses, moved.at) for w in (witnesses[owner], witnesses[1 - owner])]
                assert found[1] == [], "one owner at a time"
                sent += sum(isinstance(f, Notice) and f.reason is NoticeReason.DEGRADED for f in found[0])
    return sent


def as_gone(saved: SavedState) -> GoneState:
    return GoneState(saved.base, "the owner before", saved.at, orjson.loads(saved.data))


@pytest.mark.parametrize("sidecars", [1, 4, 64])
def test_two_witnesses_send_no_more_false_pages_than_allowed_beside_however_many_sidecars(
    sidecars: int, tmp_path: Path
) -> None:
    """40 pages are allowed to each of eight fleets; bases go from one witness to the other with their evidence."""
    config, fleets = shared(sidecars), 8
    assert sum(stream_counts(config, sidecars + 2).values()) == 12
    sent, allowed = pages_of_witnesses(config, fleets, tmp_path), ALLOWED * fleets
    assert 0 < sent < allowed - 4 * math.sqrt(allowed)


def test_a_quarter_of_64_sidecars_that_each_count_as_one_sends_more_than_is_allowed_to_all() -> None:
    """What a fleet did whose sidecars were not counted: each of them had the threshold of one. Adapters of a base whose
    alarms are one fault send one page."""
    assert log_threshold(fleet(64)) - log_threshold(fleet(1)) == pytest.approx(math.log(64))
    assert pages(1) > ALLOWED
