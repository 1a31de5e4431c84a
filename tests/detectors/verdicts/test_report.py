"""From a step to its verdict: what a person reads of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from detectors.canaries.tolerance import Tolerances
from detectors.on_call_text import NOT_YET_OVER
from detectors.records import Cause, Onset, Reason, Status, SubjectKind
from detectors.verdicts.incident import Incident, Rules, Step
from detectors.verdicts.report import report, unjudged
from tests.detectors.responses import traffic_round
from tests.detectors.synthetic import make_base_round, make_round

RULES = Rules(Tolerances(), log_threshold=20.0)
BLANK = unjudged(SubjectKind.ADAPTER, "router", make_round("router", number=3), RULES)
OPEN = Incident(
    open=True, opened_at=60.0, cause=Cause.WRONG_STRENGTH, first_bad_at=60.0, good_in_a_row=1, explanation="half",
    action="reload", good_since_fault=1,
)  # fmt: skip
ENDED = Incident(last_good_at=180.0, good_in_a_row=2)


def test_before_anything_was_measured() -> None:
    assert (BLANK.status, BLANK.reason, BLANK.log_threshold) == (Status.UNMONITORABLE, Reason.NOT_REPLAYED_YET, 20.0)
    assert (BLANK.base, BLANK.round, BLANK.at) == ("smol", 3, 180.0)
    assert unjudged(SubjectKind.BASE, "smol", make_base_round({}), RULES).reason is Reason.NOT_REPLAYED_YET
    assert unjudged(SubjectKind.ADAPTER, "router", traffic_round(), RULES).reason is Reason.NO_TRAFFIC


@pytest.mark.parametrize(
    ("reason", "after", "status", "cause", "explanation", "action"),
    [
        (Reason.STILL_DEGRADED, OPEN, Status.DEGRADED, Cause.WRONG_STRENGTH, "half; 90 %", "reload"),
        (Reason.RECOVERING, OPEN, Status.DEGRADED, Cause.WRONG_STRENGTH, "half; 90 %", "reload"),
        (Reason.RESOLVED, ENDED, Status.HEALTHY, Cause.NONE, "90 %", ""),
        (Reason.UNREADABLE, OPEN, Status.UNMONITORABLE, Cause.NONE, "90 %", ""),
    ],
)
def test_cause_and_action_are_reported_while_it_is_degraded(
    reason: Reason, after: Incident, status: Status, cause: Cause, explanation: str, action: str
) -> None:
    verdict = report(BLANK, Step(180.0, reason, OPEN, after), "90 %")
    assert (verdict.status, verdict.reason, verdict.cause) == (status, reason, cause)
    assert (verdict.explanation, verdict.action) == (explanation, action)
    assert verdict.onset == (None if status is Status.UNMONITORABLE else Onset(None, 60.0))
    assert (verdict.good_in_a_row, verdict.silent_in_a_row) == (after.good_in_a_row, after.silent_in_a_row)


@pytest.mark.parametrize(
    ("reason", "needed", "words"),
    [
        (Reason.RECOVERING, 8, "half; 90 %; good round 1 of the 8 that end the incident"),
        (Reason.RECOVERING, 1, f"half; 90 %; {NOT_YET_OVER}"),
        (Reason.STILL_DEGRADED, 8, "half; 90 %"),
    ],
)
def test_a_good_round_of_an_open_incident_says_what_its_end_takes(reason: Reason, needed: int, words: str) -> None:
    assert report(BLANK, Step(180.0, reason, OPEN, OPEN, needed), "90 %").explanation == words


def test_outside_an_incident_the_action_is_the_rounds_own() -> None:
    silent = Incident(silent_in_a_row=2)
    verdict = report(BLANK, Step(180.0, Reason.UNREADABLE, silent, silent), "gone", "look")
    assert (verdict.explanation, verdict.action, verdict.silent_in_a_row) == ("gone", "look", 2)


def test_reopenings_are_those_of_the_incident_that_is_open_or_was_just_ended() -> None:
    again, ended = replace(OPEN, reopenings=2), replace(ENDED, reopenings=2)
    assert report(BLANK, Step(180.0, Reason.STILL_DEGRADED, again, again), "").reopenings == 2
    assert report(BLANK, Step(180.0, Reason.RESOLVED, again, ended), "").reopenings == 2
    assert report(BLANK, Step(240.0, Reason.WITHIN_TOLERANCE, ended, ended), "").reopenings == 0
