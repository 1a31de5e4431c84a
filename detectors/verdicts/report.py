"""From a step of an incident to the verdict that reports it: status, cause, onset, counters and words. Pure.

All decisions use it, those on canaries and those on responses; what only one of them reports is added there.
"""

from __future__ import annotations

from dataclasses import replace

from detectors.on_call_text import GOOD_SO_FAR, NOT_YET_OVER
from detectors.records import BaseRound, Cause, Reason, Round, Status, SubjectKind, Verdict
from detectors.traffic_records import TrafficRound
from detectors.verdicts.incident import Rules, Step


def unjudged(kind: SubjectKind, subject: str, round: Round | BaseRound | TrafficRound, rules: Rules) -> Verdict:
    """What a verdict begins as: nothing was replayed, or sampled, of this subject."""
    reason = Reason.NO_TRAFFIC if isinstance(round, TrafficRound) else Reason.NOT_REPLAYED_YET
    return Verdict(
        subject_kind=kind,
        subject=subject,
        base=round.base,
        round=round.number,
        at=round.at,
        status=Status.UNMONITORABLE,
        reason=reason,
        log_threshold=rules.log_threshold,
    )


def report(blank: Verdict, step: Step, figures: str, action: str = "") -> Verdict:
    """The verdict after a step. A round that resolves still reports the onset of the incident that it ended.

    blank: with all that does not depend on the incident; figures: the round in words, which follow those of the cause
    action: the first thing to do outside an incident; inside one it comes with the cause
    """
    incident, degraded = step.incident, step.status is Status.DEGRADED
    words = (incident.explanation if degraded else "", figures, _until_the_end(step))
    return replace(
        blank,
        status=step.status,
        reason=step.reason,
        cause=incident.cause if degraded else Cause.NONE,
        onset=step.onset,
        explanation="; ".join(filter(None, words)),
        action=incident.action if degraded else action,
        good_in_a_row=step.after.good_in_a_row,
        silent_in_a_row=step.after.silent_in_a_row,
        reopenings=incident.reopenings if degraded or step.reason is Reason.RESOLVED else 0,
    )


def _until_the_end(step: Step) -> str:
    """What a good round in an open incident still lacks to end it."""
    good, needed = step.after.good_since_fault, step.good_rounds_needed
    if step.reason is not Reason.RECOVERING or not needed:
        return ""
    return GOOD_SO_FAR.format(good=good, needed=needed) if good < needed else NOT_YET_OVER
