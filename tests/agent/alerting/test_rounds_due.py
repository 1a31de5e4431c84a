"""A base of which no round is judged is overdue, whatever the wall clock says."""

from __future__ import annotations

from agent.alerting.rounds_due import LATE_ROUNDS, RoundsDue, not_judged
from agent.records import ScoredResponses
from agent.worker.silence import STUCK_S
from detectors.records import BaseRound, Reason, Status, SubjectKind

EVERY_S = 60.0
LATE_S = LATE_ROUNDS * EVERY_S + STUCK_S


def test_a_base_is_overdue_after_three_intervals_beyond_what_a_hanging_model_is_waited_for() -> None:
    due = RoundsDue({"smol": EVERY_S, "slow": 600.0})
    assert due.overdue(0.0) == {}
    assert due.overdue(LATE_S) == {}
    assert due.overdue(LATE_S + 1) == {"smol": 8}
    due.judged(BaseRound("smol", 9, 0.0, ()), LATE_S + 2)
    assert due.overdue(LATE_S + 3) == {}
    assert set(due.overdue(3 * LATE_S + 1000)) == {"smol", "slow"}


def test_a_base_that_comes_is_not_overdue_for_the_time_when_it_was_anothers() -> None:
    due = RoundsDue({"smol": EVERY_S, "other": EVERY_S})
    due.overdue(0.0)
    due.own(frozenset({"other"}))
    assert set(due.overdue(LATE_S + 1)) == {"other"}
    due.own(frozenset({"smol", "other"}))
    assert set(due.overdue(LATE_S + 2)) == {"other"}
    assert set(due.overdue(2 * LATE_S + 3)) == {"smol", "other"}


def test_rounds_of_another_kind_do_not_count() -> None:
    due = RoundsDue({"smol": EVERY_S})
    due.overdue(0.0)
    due.judged(ScoredResponses("smol", 0.0, (), None, {}), LATE_S)
    assert set(due.overdue(LATE_S + 1)) == {"smol"}


def test_the_verdict_says_that_nobody_watches_and_names_no_fault_of_the_adapter() -> None:
    verdict = not_judged((SubjectKind.ADAPTER, "router"), "smol", 9, "every record fails", 5.0)
    assert (verdict.status, verdict.reason, verdict.silent_in_a_row) == (Status.UNMONITORABLE, Reason.NOT_JUDGED, 9)
    assert "nobody watches router" in verdict.explanation and "every record fails" in verdict.explanation
