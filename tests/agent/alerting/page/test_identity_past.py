"""What a page says of the day before it: which hash changed, when, and whether it is back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agent.alerting.alert_state import AlertState
from agent.alerting.incidents import step_round
from agent.alerting.page.identity_past import KEPT, IdentityPast
from agent.records import Notice
from detectors.records import Identity, Reason, Status, SubjectKind, Verdict
from tests.agent.findings import ACCEPTED, BASE, FIXED, SWAPPED, alarm, verdict

HOUR = 3600.0
HEALTHY, MOVED = verdict(at=FIXED), verdict(at=FIXED, identity=SWAPPED)


def after(*rounds: Verdict) -> IdentityPast:
    past = IdentityPast()
    for each in rounds:
        past = past.after(each)
    return past


def test_a_swap_and_the_way_back_are_both_said_the_latest_first() -> None:
    past = after(HEALTHY, replace(MOVED, at=FIXED + 60), replace(HEALTHY, at=FIXED + 180))
    assert past.in_words(ACCEPTED, FIXED + 240) == (
        "2026-09-21 14:16:20 UTC base sha256:bbbb to sha256:aaaa (as accepted); "
        "2026-09-21 14:14:20 UTC base sha256:aaaa to sha256:bbbb"
    )


def test_that_nothing_changed_is_said_with_since_when_it_is_known_and_a_day_at_most() -> None:
    past = after(HEALTHY, replace(HEALTHY, at=FIXED + HOUR))
    assert past.in_words(ACCEPTED, FIXED + HOUR) == "nothing that a hash shows, since 2026-09-21 14:13:20 UTC"
    assert past.in_words(ACCEPTED, FIXED + 30 * HOUR) == "nothing that a hash shows, since 2026-09-21 20:13:20 UTC"
    assert past.in_words(ACCEPTED, FIXED + 30.0) == ""
    assert IdentityPast().in_words(ACCEPTED, FIXED) == ""


def test_a_change_of_two_days_ago_is_none_of_this_page() -> None:
    past = after(HEALTHY, replace(MOVED, at=FIXED + 60))
    assert "sha256:bbbb" in past.in_words(SWAPPED, FIXED + 24 * HOUR)
    assert past.in_words(SWAPPED, FIXED + 25 * HOUR).startswith("nothing that a hash shows")


def test_a_change_that_only_the_round_of_the_page_shows_is_said_though_its_time_is_rounded_up() -> None:
    past = after(HEALTHY, replace(MOVED, at=FIXED + HOUR))
    assert "sha256:bbbb" in past.in_words(SWAPPED, FIXED + HOUR - 0.0004)


def test_a_round_that_shows_no_hash_and_one_of_another_scheme_are_no_change() -> None:
    blind = replace(HEALTHY, at=FIXED + 60, identity=Identity())
    other = replace(MOVED, at=FIXED + 120, identity=replace(SWAPPED, scheme=SWAPPED.scheme + 1))
    assert after(HEALTHY, blind, other).changes == ()


def test_of_a_base_no_adapter_is_said_to_have_changed() -> None:
    base = replace(HEALTHY, subject_kind=SubjectKind.BASE, subject=BASE)
    other = replace(base, at=FIXED + 60, identity=replace(ACCEPTED, live_adapter="sha256:dddd"))
    assert after(base, other).changes == ()
    adapters = replace(other, subject_kind=SubjectKind.ADAPTER)
    assert [change.part for change in after(HEALTHY, adapters).changes] == ["adapter"]


def test_it_is_bounded_and_survives_a_restart() -> None:
    turns = [replace((HEALTHY, MOVED)[i % 2], at=FIXED + 60.0 * i) for i in range(3 * KEPT)]
    past = after(*turns)
    assert len(past.changes) == KEPT
    assert IdentityPast.from_json(past.to_json()) == past
    assert IdentityPast.from_json({}) == IdentityPast()
    assert past.in_words(ACCEPTED, turns[-1].at).endswith(f"and {KEPT - 3} more: gapwatch query identity")


@pytest.mark.parametrize("kind", [SubjectKind.ADAPTER, SubjectKind.BASE])
def test_the_page_says_it_behind_since_when_the_fault_is_there_and_its_end_does_not(kind: SubjectKind) -> None:
    subject: dict[str, Any] = {"subject_kind": kind, "subject": BASE} if kind is SubjectKind.BASE else {}
    rounds = [
        verdict(at=FIXED, **subject),
        alarm(FIXED + 60, **subject),
        verdict(Status.HEALTHY, Reason.RESOLVED, at=FIXED + 300, **subject),
    ]
    states: dict[str, AlertState] = {}
    sent: list[Notice] = []
    for each in rounds:
        states, notices = step_round(states, [each], each.at, "prod")
        states = {key: AlertState.from_json(state.to_json()) for key, state in states.items()}
        sent += notices
    page, end = sent
    names = list(page.details)
    assert page.details["changed"] == "2026-09-21 14:14:20 UTC base sha256:aaaa to sha256:bbbb"
    assert names.index("changed") == names.index("onset") + 1
    assert "changed" not in end.details
