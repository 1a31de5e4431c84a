"""What is decided about an adapter from sampled responses alone? Pure, like decision.py, whose rules it shares.

An incident opens at an alarm of a stream that may page. It ends after ``fresh_rounds`` good rounds with no bad one
between, and not before as many responses were good in them as make a chance of all faulty ones having been missed at
most 5 %: of one replica in ten, two rounds of a few responses show nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from detectors.diagnosis.response_cause import ResponseCounts, diagnose_responses
from detectors.diagnosis.wording import words_of
from detectors.records import Cause, Evidence, Identity, Interval, Onset, Reason, Status, SubjectKind, Verdict
from detectors.traffic.response_summary import ResponseSummary
from detectors.traffic_records import TrafficRound
from detectors.verdicts.decision import Incident, Rules, unjudged, with_cause

MISSED = 0.05


@dataclass(frozen=True, slots=True)
class ResponseIncident:
    """What is remembered of one adapter's responses between rounds.

    counts: since the first bad round; began: when the fault began, by the evidence at the alarm
    """

    incident: Incident = field(default_factory=Incident)
    counts: ResponseCounts = field(default_factory=ResponseCounts)
    began: float | None = None

    @property
    def open(self) -> bool:
        return self.incident.open

    def to_json(self) -> dict[str, Any]:
        return {"incident": self.incident.to_json(), "began": self.began, **self.counts.to_json()}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> ResponseIncident:
        return cls(Incident.from_json(stored["incident"]), ResponseCounts.from_json(stored), stored["began"])


@dataclass(frozen=True, slots=True)
class ResponseEstimates:
    """What the detectors say beside their evidence.

    strength: how much of the adapter is left, by the words alone
    onset_at: when the fault began, by the CUSUM twin
    """

    strength: Interval | None = None
    onset_at: float | None = None


def decide_traffic(
    round: TrafficRound,
    adapter: str,
    evidence: Sequence[Evidence],
    heard: ResponseSummary,
    reading: ResponseEstimates,
    before: ResponseIncident,
    rules: Rules,
) -> tuple[Verdict, ResponseIncident]:
    """The verdict on one adapter by its responses, and what is remembered of it from now on.

    evidence: the adapter's streams after this round. Without scored responses nothing opens and nothing resolves.
    """
    blank = replace(
        unjudged(SubjectKind.ADAPTER, adapter, round, rules),
        evidence=tuple(evidence),
        retention=reading.strength,
        identity=round.identities.get(adapter, Identity()),
    )
    if not heard.scored:
        return _silent(blank, heard, before)
    loudest = max((e.log_e for e in evidence if e.pages), default=0.0)
    counted = _counted(before, heard, loudest)
    reason, after = _step(round.at, heard, loudest, counted, rules)
    if after.open and (heard.bad or not before.open):
        found = diagnose_responses(adapter, after.counts, heard.leading, reading.strength, blank.identity)
        after = replace(after, incident=with_cause(after.incident, words_of(found)))
    return _told(blank, reason, heard, reading, before, after), after


def _counted(before: ResponseIncident, heard: ResponseSummary, log_e: float) -> ResponseIncident:
    """Counts since the first bad round, the good ones between included; they start again where no evidence is left."""
    if heard.good and not before.open and log_e <= 0.0:
        return ResponseIncident(before.incident)
    past = before.counts
    favour, pods = past.favour + heard.favour, tuple(sorted({*past.pods, *heard.pods}))
    if heard.good:
        return replace(before, counts=replace(past, fresh=past.fresh + heard.scored, favour=favour, pods=pods))
    counts = ResponseCounts(
        scored=past.scored + past.fresh + heard.scored,
        against=past.against + heard.against,
        favour=favour,
        bad_pods=tuple(sorted({*past.bad_pods, *heard.bad_pods})),
        pods=pods,
    )
    return replace(before, counts=counts)


def _step(
    at: float, heard: ResponseSummary, log_e: float, seen: ResponseIncident, rules: Rules
) -> tuple[Reason, ResponseIncident]:
    now = replace(seen.incident, blocked_in_a_row=0, good_in_a_row=seen.incident.good_in_a_row + 1 if heard.good else 0)
    if heard.bad and now.first_bad_at is None:
        now = replace(now, first_bad_at=at)
    if now.open:
        if heard.bad:
            return Reason.STILL_DEGRADED, replace(seen, incident=now)
        if now.good_in_a_row < rules.fresh_rounds or not _enough(seen.counts):
            return Reason.RECOVERING, replace(seen, incident=now)
        return Reason.RESOLVED, ResponseIncident(Incident(last_good_at=at, good_in_a_row=now.good_in_a_row))
    if log_e >= rules.log_threshold:
        return Reason.ALARM, replace(seen, incident=replace(now, open=True, opened_at=at, good_in_a_row=0))
    if heard.good:
        now = replace(now, last_good_at=at, first_bad_at=None)
    suspect = heard.bad or log_e >= rules.suspect_fraction * rules.log_threshold
    return (Reason.EVIDENCE_GROWING if suspect else Reason.WITHIN_TOLERANCE), replace(seen, incident=now)


def _enough(seen: ResponseCounts) -> bool:
    """Would a fault of that share have shown in the responses since?"""
    return (1.0 - min(seen.share, 0.95)) ** seen.fresh <= MISSED


STATUS = {
    Reason.WITHIN_TOLERANCE: Status.HEALTHY,
    Reason.RESOLVED: Status.HEALTHY,
    Reason.EVIDENCE_GROWING: Status.SUSPECT,
    Reason.ALARM: Status.DEGRADED,
    Reason.STILL_DEGRADED: Status.DEGRADED,
    Reason.RECOVERING: Status.DEGRADED,
}


def _told(
    blank: Verdict,
    reason: Reason,
    heard: ResponseSummary,
    reading: ResponseEstimates,
    before: ResponseIncident,
    after: ResponseIncident,
) -> Verdict:
    told = (before if reason is Reason.RESOLVED else after).incident
    status = STATUS[reason]
    onset = None
    if status is Status.DEGRADED or reason is Reason.RESOLVED:
        first = told.first_bad_at if told.first_bad_at is not None else told.opened_at
        onset = Onset(told.last_good_at, blank.at if first is None else first, reading.onset_at)
    words = in_words(heard)
    return replace(
        blank,
        status=status,
        reason=reason,
        cause=told.cause if status is Status.DEGRADED else Cause.NONE,
        onset=onset,
        share_beyond=heard.against / heard.scored,
        explanation=f"{told.explanation}; {words}" if status is Status.DEGRADED else words,
        action=told.action if status is Status.DEGRADED else "",
    )


def in_words(heard: ResponseSummary) -> str:
    """ "12 responses scored (340 tokens), 0 against what was accepted"."""
    aside = f", {heard.unscored} not scored: {heard.why}" if heard.unscored else ""
    return f"{heard.scored} responses scored ({heard.tokens} tokens), {heard.against} against what was accepted{aside}"


def _silent(blank: Verdict, heard: ResponseSummary, before: ResponseIncident) -> tuple[Verdict, ResponseIncident]:
    # What was good before stays counted: a quiet adapter may never be heard in two rounds in a row.
    incident = replace(before.incident, blocked_in_a_row=before.incident.blocked_in_a_row + 1)
    after = replace(before, incident=incident)
    if not heard.unscored:
        words = "no response was sampled since the last round"
        do = "check that requests arrive and that their records name this adapter: run gapwatch doctor"
        return replace(blank, explanation=words, action=do, blocked_in_a_row=incident.blocked_in_a_row), after
    words = f"{heard.unscored} responses came, none could be scored: {heard.why}"
    do = "enrol with keep_golden_weights, and let the records name the sampler, or configure its defaults"
    told = replace(blank, reason=Reason.NOT_SCORED, explanation=words, action=do)
    return replace(told, blocked_in_a_row=incident.blocked_in_a_row), after
