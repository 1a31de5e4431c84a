"""Ranks that moved: a suspect verdict and no more, and not where another sampler explains them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from detectors.canaries.tolerance import Tolerances
from detectors.monitor import Monitor
from detectors.records import Cause, Reason, Status
from detectors.traffic.rank_report import with_ranks
from detectors.traffic_records import TrafficScore
from detectors.verdicts.incident import Rules
from tests.detectors.kinds.test_rank_histogram import response
from tests.detectors.responses import score, traffic_round
from tests.detectors.traffic.test_sampler_report import HOT
from tests.detectors.verdicts.test_fusion import BROKEN, HEALTHY, SUSPECT

RULES = Rules(Tolerances(), 21.5)


def test_healthy_becomes_suspect_and_everything_else_keeps_its_reason() -> None:
    moved = with_ranks(HEALTHY, 30.0, None)
    assert (moved.status, moved.reason, moved.cause) == (Status.SUSPECT, Reason.RANKS_MOVED, Cause.UNKNOWN)
    assert "30.0 nats" in moved.explanation and "never pages" in moved.explanation
    assert "quantization" in moved.action
    assert with_ranks(HEALTHY, HEALTHY.log_threshold - 1e-3, None) is HEALTHY
    for verdict in (BROKEN, SUSPECT):
        assert with_ranks(verdict, 90.0, None) is verdict


def test_another_sampler_is_named_as_that_and_not_as_an_unknown_fault() -> None:
    assert with_ranks(HEALTHY, 90.0, HOT) is HEALTHY
    quiet = replace(HOT, log_e=0.5)
    assert with_ranks(HEALTHY, 90.0, quiet).reason is Reason.RANKS_MOVED


def test_an_engine_at_fault_that_no_alternative_explains_is_reported_from_responses_and_pages_nobody() -> None:
    """Responses that no alternative explains (their L is tiny), with ranks as of a coarser model."""
    monitor, rng, reasons = Monitor(RULES), np.random.default_rng(2), []

    def served(writer: float) -> TrafficScore:
        of_ranks = response(rng.random(25) ** writer)
        names = ("ranks", "ranks_weaker", "ranks_stronger", "tokens")
        return replace(score(), **{name: getattr(of_ranks, name) for name in names})

    for number in range(120):
        writer = 1.0 if number < 40 else 0.7
        (verdict,) = monitor.observe(traffic_round(*(served(writer) for _ in range(4)), number=number)).verdicts
        reasons.append(verdict.reason)
    assert set(reasons[:40]) == {Reason.WITHIN_TOLERANCE}
    assert reasons[-1] is Reason.RANKS_MOVED and verdict.status is Status.SUSPECT
    assert not {Reason.ALARM, Reason.STILL_DEGRADED} & set(reasons)
    assert verdict.cause is Cause.UNKNOWN
    assert {e.detector for e in verdict.evidence if e.log_e >= RULES.log_threshold} == {"rank_histogram"}


def test_the_end_of_an_incident_stays_one_while_ranks_are_still_moved() -> None:
    """Else nobody would be told that it ended, and the evidence that it ended on would be there for the next one."""
    monitor, rng, reasons = Monitor(RULES), np.random.default_rng(2), []

    def served(against: bool, writer: float) -> TrafficScore:
        of_ranks = response(rng.random(25) ** writer)
        names = ("ranks", "ranks_weaker", "ranks_stronger", "tokens")
        return replace(
            score((7.0, 3.0, -5.0)) if against else score(),
            **{name: getattr(of_ranks, name) for name in names},
        )

    for number in range(90):
        writer = 0.5 if number >= 20 else 1.0
        scores = [served(20 <= number < 80 and i == 0, writer) for i in range(4)]
        (verdict,) = monitor.observe(traffic_round(*scores, number=number)).verdicts
        reasons.append(verdict.reason)
        if verdict.reason is Reason.RESOLVED:
            level = {e.detector: e.log_e for e in verdict.evidence}
    assert reasons.count(Reason.ALARM) == reasons.count(Reason.RESOLVED) == 1
    assert level["rank_histogram"] > RULES.log_threshold, "the ranks had their say in that round too"
    assert max(e.log_e for e in verdict.evidence if e.pages) < 1.0, "and what the incident ended on is spent"


def test_an_engine_that_was_put_right_is_not_suspected_again() -> None:
    """M is at e^300 by then, and of nine fair bets one nearly always grew a little over the last responses."""
    monitor, rng, moved = Monitor(RULES), np.random.default_rng(0), []
    for number in range(500):
        of_ranks = [response(rng.random(25) ** (0.6 if 50 <= number < 170 else 1.0)) for _ in range(4)]
        names = ("ranks", "ranks_weaker", "ranks_stronger", "tokens")
        scores = [replace(score(), **{name: getattr(own, name) for name in names}) for own in of_ranks]
        (verdict,) = monitor.observe(traffic_round(*scores, number=number)).verdicts
        moved.append(verdict.reason is Reason.RANKS_MOVED)
    assert not any(moved[:50]) and all(moved[60:170])
    assert not any(moved[170 + moved[170:].index(False) :])
