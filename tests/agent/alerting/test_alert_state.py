"""What is kept of what was sent: saved, read, and joined with what the fleet has sent since."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from agent.alerting.alert_state import AlertState, Reported
from agent.alerting.fleet import SentIncident
from agent.records import NoticeReason
from detectors.records import Status
from tests.agent.findings import FIXED, alarm, verdict

GOOD, BAD, BLIND = verdict(good_in_a_row=5), verdict(Status.DEGRADED), verdict(Status.UNMONITORABLE)
HERE = Reported(is_open=True, at=100.0, held=True)
THERE = Reported(is_open=True, at=100.0, by="pod-b")


@pytest.mark.parametrize(
    ("before", "sent", "after"),
    [
        (Reported(), SentIncident(), Reported()),
        (Reported(), SentIncident(opened_at=90.0, pod="b"), Reported(True, 90.0, "b", good_before=5)),
        (Reported(), SentIncident(opened_at=90.0, pod="b", delivered=True), Reported(True, 90.0, "", good_before=5)),
        (Reported(at=100.0), SentIncident(opened_at=90.0, pod="b"), Reported(at=100.0)),
        (HERE, SentIncident(opened_at=100.0, pod="a"), HERE),
        (HERE, SentIncident(opened_at=120.0, pod="b"), replace(HERE, at=120.0)),
        (HERE, SentIncident(ended_at=90.0), HERE),
        (HERE, SentIncident(ended_at=120.0), Reported(at=120.0)),
        (THERE, SentIncident(opened_at=120.0, pod="c"), replace(THERE, at=120.0, by="c")),
        (THERE, SentIncident(opened_at=100.0, pod="pod-b", delivered=True), replace(THERE, by="")),
        (HERE, SentIncident(opened_at=120.0, pod="b", not_judged=True), replace(HERE, at=120.0, not_judged=True)),
    ],
)
def test_the_later_word_counts(before: Reported, sent: SentIncident, after: Reported) -> None:
    assert before.with_sent(sent, GOOD, 200.0) == after


def test_an_end_elsewhere_counts_late_where_it_is_still_degraded_here_and_at_once_where_it_cannot_be_judged() -> None:
    ended = SentIncident(ended_at=120.0)
    assert HERE.with_sent(ended, BAD, 700.0) == HERE
    assert HERE.with_sent(ended, BAD, 720.0) == HERE.with_sent(ended, BLIND, 200.0) == Reported(at=120.0)


def test_a_state_is_read_as_it_was_saved() -> None:
    state = AlertState(changes=("sha256:bb",), waiting={"base_moved sha256:cc": 12.5})
    for reason in (NoticeReason.CANNOT_TELL, NoticeReason.DEGRADED, NoticeReason.NO_LONGER_JUDGED):
        state = state.after_notice(alarm(), reason, FIXED)
        assert AlertState.from_json(json.loads(json.dumps(state.to_json()))) == state
    assert (state.incident.not_judged, state.blindness.is_open) == (True, True)
    assert state.to_json()["opened_as"] == "degraded", "as an earlier program reads it"
    ended = state.after_notice(alarm(), NoticeReason.RECOVERED, FIXED + 1)
    assert ended.incident == Reported(at=FIXED + 1) and ended.blindness == state.blindness
