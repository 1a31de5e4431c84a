"""Verdicts and notices as log events of OpenTelemetry, and a round as a span; pure.

Attributes have few values: an adapter, a base, a cause. Production text is in none of them. The view
``verdicts_and_notices_as_logs`` of the store shows the same events under the same names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from opentelemetry._logs import SeverityNumber

from agent.alerting.policy import Severity, Urgency
from agent.open_telemetry import conventions
from agent.records import Notice, NoticeKind
from detectors.records import BaseRound, Status, Verdict

SEVERITIES = {
    Status.HEALTHY: SeverityNumber.INFO,
    Status.SUSPECT: SeverityNumber.WARN,
    Status.UNMONITORABLE: SeverityNumber.WARN,
    Status.DEGRADED: SeverityNumber.ERROR,
}
# Tools colour by these three; the policy's own word is an attribute.
URGENCIES = {
    Severity.CRITICAL: SeverityNumber.ERROR,
    Severity.ERROR: SeverityNumber.ERROR,
    Severity.WARNING: SeverityNumber.WARN,
    Severity.INFO: SeverityNumber.INFO,
}
Attributes = Mapping[str, str | int | float]


@dataclass(frozen=True, slots=True)
class Event:
    """at: seconds since the epoch; body: for a person"""

    name: str
    at: float
    severity: SeverityNumber
    body: str
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class Span:
    """begin, end: seconds since the epoch"""

    name: str
    begin: float
    end: float
    attributes: Attributes


def verdict_event(verdict: Verdict) -> Event:
    """An evaluation of the adapter: its label is the status, its score the share of its effect that is left, 1 for all.

    No score where no retention was measured: of bases, of blocked rounds, of responses alone.
    """
    evidence = max((e.log_e for e in verdict.evidence if e.pages), default=0.0)
    figures = {
        conventions.SCORE_VALUE: verdict.retention.mean if verdict.retention else math.nan,
        "gapwatch.evidence": evidence,
        "gapwatch.threshold": verdict.log_threshold,
    }
    words = {
        conventions.EVALUATION_NAME: conventions.RETENTION,
        conventions.SCORE_LABEL: verdict.status.value,
        conventions.EXPLANATION: verdict.explanation,
        "gapwatch.reason": verdict.reason.value,
    }
    attributes = _subject(verdict) | {name: value for name, value in words.items() if value}
    attributes |= {name: value for name, value in figures.items() if math.isfinite(value)}
    return Event(conventions.EVALUATION, verdict.at, SEVERITIES[verdict.status], verdict.explanation, attributes)


def notice_event(notice: Notice, urgency: Urgency) -> Event:
    """What the on-call person was told. urgency: by the policy; an end and a change are information, however urgent the
    incident was"""
    severity = URGENCIES[urgency.severity] if notice.kind is NoticeKind.TRIGGER else SeverityNumber.INFO
    words = {
        "gapwatch.notice.kind": notice.kind.value,
        "gapwatch.notice.reason": notice.reason.value,
        "gapwatch.notice.dedup_key": notice.dedup_key,
        "gapwatch.notice.severity": urgency.severity.value,
        "gapwatch.notice.owner": urgency.owner,
    }
    attributes = _subject(notice.verdict) | {name: value for name, value in words.items() if value}
    return Event(conventions.NOTICE, notice.at, severity, notice.summary, attributes)


def round_span(base_round: BaseRound) -> Span:
    """From its begin to its last answer."""
    attributes: dict[str, Any] = {
        "gapwatch.base": base_round.base,
        "gapwatch.round": base_round.number,
        "gapwatch.adapters": len(base_round.members),
        "gapwatch.adapters.blocked": sum(member.blocked is not None for member in base_round.members),
        "gapwatch.tokens.scored": base_round.tokens_scored,
        "gapwatch.tokens.processed": base_round.tokens_processed,
    }
    return Span(conventions.ROUND, base_round.at, base_round.at + base_round.duration_s, attributes)


def _subject(verdict: Verdict) -> dict[str, str | int | float]:
    return {
        "gapwatch.subject_kind": verdict.subject_kind.value,
        "gapwatch.subject": verdict.subject,
        "gapwatch.base": verdict.base,
        "gapwatch.cause": verdict.cause.value,
        "gapwatch.round": verdict.round,
    }
