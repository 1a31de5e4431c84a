"""Names, severities and figures of what goes out, and that no text of production does."""

from __future__ import annotations

import pytest
from opentelemetry._logs import SeverityNumber

from agent.alerting.notice import to_notice
from agent.alerting.policy import Policy
from agent.open_telemetry import conventions
from agent.open_telemetry.events import notice_event, round_span, verdict_event
from agent.records import NoticeReason
from detectors.records import Reason, Status
from tests.agent import findings
from tests.agent.findings import BASE, FIXED, ROUTER

POLICY = Policy.model_validate({"adapters": {ROUTER: {"severity": "warning", "owner": "platform"}}})


def test_a_verdict_is_an_evaluation_with_its_status_as_label_and_retention_as_score() -> None:
    alarm = findings.alarm(FIXED)
    event = verdict_event(alarm)
    assert (event.name, event.at, event.severity) == ("gen_ai.evaluation.result", FIXED, SeverityNumber.ERROR)
    assert event.body == alarm.explanation
    assert dict(event.attributes) == {
        "gen_ai.evaluation.name": "gapwatch.retention",
        "gen_ai.evaluation.score.value": 0.002,
        "gen_ai.evaluation.score.label": "degraded",
        "gen_ai.evaluation.explanation": alarm.explanation,
        "gapwatch.subject_kind": "adapter",
        "gapwatch.subject": ROUTER,
        "gapwatch.base": BASE,
        "gapwatch.cause": "base_swapped_and_adapter_lost",
        "gapwatch.reason": "alarm",
        "gapwatch.round": 7,
        "gapwatch.evidence": 93.9,
        "gapwatch.threshold": 21.5,
    }


@pytest.mark.parametrize(
    ("status", "severity"),
    [(Status.HEALTHY, "INFO"), (Status.SUSPECT, "WARN"), (Status.UNMONITORABLE, "WARN"), (Status.DEGRADED, "ERROR")],
)
def test_severity_is_that_of_the_status_and_there_is_no_score_without_a_measurement(
    status: Status, severity: str
) -> None:
    event = verdict_event(findings.verdict(status))
    assert event.severity.name == severity
    assert conventions.SCORE_VALUE not in event.attributes and conventions.EXPLANATION not in event.attributes


@pytest.mark.parametrize(
    ("reason", "severity", "urgency"),
    [
        (NoticeReason.DEGRADED, "ERROR", "critical"),
        (NoticeReason.CANNOT_TELL, "WARN", "warning"),
        (NoticeReason.RECOVERED, "INFO", "critical"),
    ],
)
def test_a_notice_is_an_event_with_its_key(reason: NoticeReason, severity: str, urgency: str) -> None:
    notice = to_notice(findings.alarm(FIXED), reason, "prod", FIXED + 1)
    event = notice_event(notice, Policy().of_notice(notice))
    assert (event.name, event.at, event.severity.name) == ("gapwatch.notice", FIXED + 1, severity)
    assert event.attributes["gapwatch.notice.reason"] == reason.value
    assert event.attributes["gapwatch.notice.severity"] == urgency and "gapwatch.notice.owner" not in event.attributes
    assert str(event.attributes["gapwatch.notice.dedup_key"]).endswith(f"adapter/{ROUTER}")


def test_it_is_as_urgent_as_the_policy_has_it_and_says_whose_it_is() -> None:
    notice = to_notice(findings.alarm(FIXED), NoticeReason.DEGRADED, "prod", FIXED + 1)
    event = notice_event(notice, POLICY.of_notice(notice))
    assert event.severity.name == "WARN"
    assert event.attributes["gapwatch.notice.severity"] == "warning"
    assert event.attributes["gapwatch.notice.owner"] == "platform"


def test_a_round_lasts_from_its_begin_for_its_duration() -> None:
    span = round_span(findings.base_round(3, FIXED, measurements=(), blocked=Reason.UNREADABLE))
    assert (span.name, span.begin, span.end) == ("gapwatch.round", FIXED, FIXED + 2.0)
    assert dict(span.attributes) == {
        "gapwatch.base": BASE,
        "gapwatch.round": 3,
        "gapwatch.adapters": 2,
        "gapwatch.adapters.blocked": 2,
        "gapwatch.tokens.scored": 120,
        "gapwatch.tokens.processed": 600,
    }
