"""Severity and owner of an incident, by its cause and by its adapters."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from agent.alerting.notice import to_notice
from agent.alerting.policy import FAULTS, Policy, Severity, Urgency
from agent.records import NoticeReason
from detectors.records import Cause, Reason, Status, SubjectKind, Verdict
from tests.agent import findings
from tests.agent.findings import BASE, FIXED, ROUTER, SWAPPED, TONE

POLICY = Policy.model_validate(
    {
        "causes": {
            "adapter_not_applied": {"owner": "platform"},
            "wrong_strength": {"severity": "error"},
            "unmonitorable": {"owner": "platform"},
        },
        "adapters": {ROUTER: {"severity": "critical", "owner": "safety"}, TONE: {"severity": "info", "owner": "tone"}},
    }
)


@pytest.mark.parametrize(
    "subject, cause, expected",
    [
        (ROUTER, Cause.ADAPTER_NOT_APPLIED, Urgency(Severity.CRITICAL, "platform")),
        (ROUTER, Cause.WRONG_STRENGTH, Urgency(Severity.CRITICAL, "safety")),
        (TONE, Cause.BASE_SWAPPED, Urgency(Severity.INFO, "tone")),
        ("another", Cause.WRONG_STRENGTH, Urgency(Severity.ERROR)),
        ("another", Cause.BASE_SWAPPED, Urgency(Severity.CRITICAL)),
    ],
)
def test_an_adapter_says_how_urgent_and_a_cause_who_can_mend_it(subject: str, cause: Cause, expected: Urgency) -> None:
    assert POLICY.of_incident(findings.alarm(subject=subject, cause=cause)) == expected


def test_a_base_is_as_urgent_as_its_most_urgent_adapter() -> None:
    base: dict[str, Any] = {"subject_kind": SubjectKind.BASE, "subject": BASE, "cause": Cause.BASE_SWAPPED}
    assert POLICY.of_incident(findings.alarm(members=(TONE,), **base)) == Urgency(Severity.INFO, "tone")
    assert POLICY.of_incident(findings.alarm(members=(TONE, ROUTER), **base)) == Urgency(Severity.CRITICAL)
    assert POLICY.of_incident(findings.alarm(members=(TONE, "another"), **base)) == Urgency(Severity.CRITICAL)


def test_what_cannot_be_judged_is_a_warning_unless_a_rule_says_otherwise() -> None:
    blind = findings.verdict(Status.UNMONITORABLE, subject="another")
    notice = to_notice(blind, NoticeReason.CANNOT_TELL, "prod", FIXED)
    assert POLICY.of_notice(notice) == Urgency(Severity.WARNING, "platform")
    measured = to_notice(findings.verdict(subject="another"), NoticeReason.CAN_TELL_AGAIN, "prod", FIXED)
    assert POLICY.of_notice(measured) == POLICY.of_notice(notice), "its end goes where it was opened"


def test_a_change_is_for_information_and_goes_to_the_owner_of_its_adapter() -> None:
    moved = findings.verdict(reason=Reason.ADAPTER_MOVED, subject=TONE)
    assert POLICY.of_notice(to_notice(moved, NoticeReason.ADAPTER_MOVED, "prod", FIXED)) == Urgency(
        Severity.INFO, "tone"
    )
    base = findings.verdict(reason=Reason.BASE_MOVED, subject=TONE, identity=SWAPPED)
    assert POLICY.of_notice(to_notice(base, NoticeReason.BASE_MOVED, "prod", FIXED)) == Urgency(Severity.INFO)


WAYS_BACK = Policy.model_validate(
    {
        "causes": {"base_swapped": {"rollback": "argocd app rollback llm-base"}},
        "adapters": {ROUTER: {"rollback": "https://wiki/router"}},
        "rollback": "ask the release team",
    }
)


@pytest.mark.parametrize(
    "verdict, how",
    [
        (findings.alarm(subject=ROUTER, cause=Cause.BASE_SWAPPED), "argocd app rollback llm-base"),
        (findings.alarm(subject=ROUTER, cause=Cause.WRONG_ADAPTER), "https://wiki/router"),
        (findings.alarm(subject=TONE, cause=Cause.WRONG_ADAPTER), "ask the release team"),
        (
            findings.alarm(
                subject_kind=SubjectKind.BASE, subject=BASE, members=(ROUTER, TONE), cause=Cause.WRONG_ADAPTER
            ),
            "ask the release team",
        ),
        (findings.verdict(Status.UNMONITORABLE, subject=ROUTER), ""),
        (findings.verdict(subject=ROUTER), ""),
    ],
)
def test_how_a_team_rolls_back_is_the_causes_to_say_and_then_the_adapters(verdict: Verdict, how: str) -> None:
    assert WAYS_BACK.roll_back(verdict) == how


def test_a_way_back_is_one_line() -> None:
    with pytest.raises(ValidationError, match="rollback"):
        Policy.model_validate({"rollback": "first\nthen"})


def test_without_a_policy_degraded_is_critical() -> None:
    assert Policy().of_incident(findings.alarm()) == Urgency(Severity.CRITICAL)
    assert Policy().owners == frozenset() and POLICY.owners == {"platform", "safety", "tone"}


@pytest.mark.parametrize(
    "settings, place",
    [
        ({"causes": {"adapter_ignored": {}}}, "adapter_not_applied"),
        ({"causes": {"none": {}}}, "unmonitorable"),
        ({"adapters": {ROUTER: {"severity": "urgent"}}}, "severity"),
        ({"adapters": {ROUTER: {"owner": "The Owner"}}}, "owner"),
        ({"adapters": {ROUTER: {"page": True}}}, "page"),
    ],
)
def test_what_no_rule_is_is_refused(settings: dict[str, object], place: str) -> None:
    with pytest.raises(ValidationError, match=place):
        Policy.model_validate(settings)


def test_every_fault_has_a_name() -> None:
    assert len(FAULTS) == len(Cause) and "none" not in FAULTS
