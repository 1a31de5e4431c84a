"""When a change is sent by one pod of several; which changes there are is in test_incidents.py."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from agent.alerting.alert_state import AlertState
from agent.alerting.changes import step_changes
from agent.alerting.fleet import ALONE, Fleet, JudgedBy
from agent.alerting.notice import dedup_key, state_key
from agent.records import NoticeKind, NoticeReason
from detectors.records import Reason, ShareOf, Status, SubjectKind, Verdict
from tests.agent.findings import BASE, FIXED, ROUTER, SWAPPED, verdict

MOVED = verdict(reason=Reason.BASE_MOVED, subject_kind=SubjectKind.BASE, identity=SWAPPED)
GOOD, GOOD_BASE = verdict(), verdict(subject_kind=SubjectKind.BASE)
OF_BASE, OF_ROUTER = state_key(SubjectKind.BASE, BASE), state_key(SubjectKind.ADAPTER, ROUTER)
KEY = dedup_key("prod", SubjectKind.BASE, BASE)
SENT = (KEY, "base_moved", "sha256:bbbb")
CHANGED = verdict(scale=0.99, tolerated_change="ticket-router has changed, and is inside your tolerance of 5 %")
SECOND = Fleet("pod-b", {"pod-a": True}, {OF_BASE: {"pod-a": JudgedBy()}, OF_ROUTER: {"pod-a": JudgedBy()}})


def sent(
    rounds: Sequence[tuple[Verdict, Fleet | None]], every_s: float = 20.0, states: Mapping[str, AlertState] = {}
) -> list[list[str]]:
    """Reasons of what each round sends; the states also go through JSON between rounds."""
    after, notices = dict(states), []
    for number, (seen, fleet) in enumerate(rounds):
        after, now = step_changes(after, [seen], FIXED + number * every_s, "prod", fleet)
        after = {key: AlertState.from_json(json.loads(json.dumps(state.to_json()))) for key, state in after.items()}
        notices.append([notice.reason.value for notice in now])
    return notices


def test_the_first_pod_sends_at_once_with_the_name_that_the_others_look_for() -> None:
    _, (notice,) = step_changes({}, [MOVED], FIXED, "prod", ALONE)
    assert (notice.dedup_key, notice.reason.value, notice.change) == SENT


def test_the_second_waits_and_sends_what_the_first_did_not() -> None:
    assert sent([(MOVED, SECOND)] * 5) == [[], [], ["base_moved"], [], []], "30 seconds after it began"


def test_what_any_pod_has_sent_is_not_sent_again() -> None:
    stored = replace(SECOND, changes={SENT: FIXED + 5})
    assert sent([(MOVED, SECOND), (MOVED, stored), (MOVED, SECOND), (MOVED, SECOND)]) == [[]] * 4
    assert sent([(MOVED, replace(ALONE, changes={SENT: FIXED - 1e6}))]) == [[]], "however long ago"
    other = replace(ALONE, changes={(KEY, "base_moved", "sha256:cccc"): FIXED})
    assert sent([(MOVED, other)]) == [["base_moved"]]


def test_what_is_gone_before_it_is_due_is_not_sent_and_starts_again() -> None:
    assert sent([(MOVED, SECOND), (GOOD_BASE, SECOND), *[(MOVED, SECOND)] * 3]) == [[], [], [], [], ["base_moved"]]
    responses = replace(GOOD_BASE, share_of=ShareOf.RESPONSES)
    assert sent([(MOVED, SECOND), (responses, SECOND), (MOVED, SECOND)]) == [[], [], ["base_moved"]], "shows none"


def test_without_an_answer_it_waits_for_ten_minutes() -> None:
    assert sent([(MOVED, None)] * 3, every_s=300.0) == [[], [], ["base_moved"]]
    assert sent([(MOVED, None), (MOVED, ALONE)]) == [[], ["base_moved"]]


def test_two_adapters_on_a_base_that_moved_wait_for_one_event() -> None:
    members = [replace(MOVED, subject_kind=SubjectKind.ADAPTER, subject=name) for name in (ROUTER, "other")]
    states, first = step_changes({}, members, FIXED, "prod", SECOND)
    assert first == () and list(states) == [OF_BASE]
    _, later = step_changes(states, members, FIXED + 30, "prod", SECOND)
    assert [notice.reason for notice in later] == [NoticeReason.BASE_MOVED]


def test_a_change_within_tolerance_is_said_once_and_once_that_it_is_over() -> None:
    key = dedup_key("prod", SubjectKind.ADAPTER, ROUTER)
    said = (key, "tolerated_change", "against sha256:cccc on sha256:aaaa")
    over = (key, "tolerated_change_over", "against sha256:cccc on sha256:aaaa")
    there = replace(ALONE, changes={said: FIXED})
    both = replace(ALONE, changes={said: FIXED, over: FIXED + 10})
    assert sent([(CHANGED, there), (GOOD, both), (CHANGED, both)]) == [[], [], ["tolerated_change"]]
    still = replace(there, judged={OF_ROUTER: {"pod-b": JudgedBy(changed=True)}})
    assert sent([(CHANGED, there), (GOOD, still), (GOOD, there)]) == [[], [], ["tolerated_change_over"]]
    assert sent([(CHANGED, there), (GOOD, still), (CHANGED, still), (GOOD, there)])[-1] == ["tolerated_change_over"]


def test_of_another_golden_record_it_is_another_change() -> None:
    said = (dedup_key("prod", SubjectKind.ADAPTER, ROUTER), "tolerated_change", "against sha256:cccc on sha256:aaaa")
    since = replace(CHANGED, identity=replace(CHANGED.identity, golden_adapter="sha256:dddd"))
    assert sent([(since, replace(ALONE, changes={said: FIXED}))]) == [["tolerated_change"]]


def test_what_is_not_healthy_changes_nothing() -> None:
    assert sent([(replace(CHANGED, status=Status.SUSPECT), ALONE)]) == [[]]


def test_an_old_golden_record_is_reported_once_as_that_whatever_the_verdict_is() -> None:
    old = {ROUTER: ("sha256:gggg", "2026-01-02")}
    states, notices = step_changes({}, [verdict(Status.DEGRADED), GOOD_BASE], FIXED, "prod", ALONE, old)
    (notice,) = notices
    assert (notice.kind, notice.reason) == (NoticeKind.CHANGE, NoticeReason.GOLDEN_OLD)
    assert "accepted 2026-01-02" in notice.summary and "no fault of the adapter" in notice.summary
    assert step_changes(states, [GOOD], FIXED + 60, "prod", ALONE, old)[1] == ()
    renewed = {ROUTER: ("sha256:hhhh", "2026-05-02")}
    assert len(step_changes(states, [GOOD], FIXED + 60, "prod", ALONE, renewed)[1]) == 1


def test_what_a_passport_says_is_told_once_a_stage_and_never_as_a_page() -> None:
    month = {ROUTER: [("base_end_of_life 2026-12-28 30 days", "its base ends in 30 days")]}
    states, notices = step_changes({}, [verdict(Status.DEGRADED), GOOD_BASE], FIXED, "prod", ALONE, {}, month)
    (notice,) = notices
    assert (notice.kind, notice.reason) == (NoticeKind.CHANGE, NoticeReason.PASSPORT_CLOCK)
    assert "its base ends in 30 days" in notice.summary and "no fault of the adapter" in notice.summary
    assert step_changes(states, [GOOD], FIXED + 60, "prod", ALONE, {}, month)[1] == ()
    week = {ROUTER: [("base_end_of_life 2026-12-28 7 days", "its base ends in 7 days")]}
    assert len(step_changes(states, [GOOD], FIXED + 60, "prod", ALONE, {}, week)[1]) == 1
    key = dedup_key("prod", SubjectKind.ADAPTER, ROUTER)
    told = {(key, "passport_clock", "clock base_end_of_life 2026-12-28 7 days"): FIXED - 60}
    fleet = Fleet("pod-b", {"pod-a": True}, {}, changes=told)
    assert step_changes(states, [GOOD], FIXED + 60, "prod", fleet, {}, week)[1] == ()


def test_an_old_golden_record_that_another_pod_has_reported_is_not_reported_again() -> None:
    key = dedup_key("prod", SubjectKind.ADAPTER, ROUTER)
    fleet = Fleet("pod-b", {"pod-a": True}, {}, changes={(key, "golden_old", "golden sha256:gggg"): FIXED - 60})
    old = {ROUTER: ("sha256:gggg", "2026-01-02")}
    assert step_changes({}, [GOOD], FIXED, "prod", fleet, old)[1] == ()
