"""The board keeps the latest of each and no more than it may."""

from __future__ import annotations

import math
from dataclasses import replace

from agent.status_page.board import BUCKET_S, MOST_FLIPS, Accepted, Board
from detectors.records import Interval, ShareOf, SubjectKind
from tests.agent import findings
from tests.agent.findings import NOW, ROUTER, evidence, flip, verdict

DAY = 48


def test_every_kind_of_finding_is_taken() -> None:
    board = Board()
    for finding in findings.every_kind():
        board.submit(finding)
    snapshot = board.snapshot()
    assert snapshot.verdicts.keys() == {(SubjectKind.ADAPTER, ROUTER)}
    assert len(snapshot.flips) == len(snapshot.sent) == 1 and snapshot.heartbeat is not None


def test_retention_is_the_mean_of_half_hours_of_the_last_day() -> None:
    board, began = Board(), NOW - NOW % BUCKET_S
    for step in range(60):
        for kept in (0.8, 1.0):
            at = began + step * BUCKET_S + 60 * kept
            board.submit(verdict(at=at, retention=Interval(kept, 0.7, 1.1, 24)))
    points = board.snapshot().retention[ROUTER]
    assert len(points) == DAY + 1 and points[-1][0] == began + 59 * BUCKET_S
    assert all(math.isclose(mean, 0.9) for _, mean in points)


def test_retention_by_responses_is_no_point_of_the_canaries_line() -> None:
    board = Board()
    board.submit(verdict(retention=Interval(0.1, 0.0, 0.2, 9), share_of=ShareOf.RESPONSES))
    assert board.snapshot().retention == {}


def test_evidence_of_single_replicas_is_left_out_and_flips_are_bounded() -> None:
    board = Board()
    board.submit(evidence(1.0))
    board.submit(evidence(2.0, replica="pod-9"))
    for number in range(MOST_FLIPS + 5):
        board.submit(replace(flip(), round=number))
    snapshot = board.snapshot()
    assert [e.log_e for e in snapshot.evidence[SubjectKind.ADAPTER, ROUTER]] == [1.0]
    assert len(snapshot.flips) == MOST_FLIPS and snapshot.flips[-1].round == MOST_FLIPS + 4


def test_of_a_golden_record_what_it_would_see_is_kept_and_not_its_bytes() -> None:
    board = Board()
    board.submit(findings.golden(smallest_loss=0.1, draws=30))
    assert board.snapshot().accepted == {ROUTER: Accepted(NOW, "first", 0.1, 30)}
