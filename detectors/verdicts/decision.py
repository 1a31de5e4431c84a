"""What is decided about a subject after a round? Pure: the same round, evidence and incident give the same verdict.

An incident opens at an alarm and ends after ``fresh_rounds`` good rounds in a row. A good round has no more than the
tolerated share of its draws beyond tolerance; any other one is suspect until the evidence is an alarm. A round without
measurements neither resolves nor opens anything. Facts of the round are in the words of every verdict on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from detectors.canaries.tolerance import Tolerances, blocked_by, draw_scores, median_share, member_median
from detectors.diagnosis.root_cause import diagnose, diagnose_base
from detectors.diagnosis.wording import words_of
from detectors.errors import Refused
from detectors.records import (
    BaseRound,
    Cause,
    Evidence,
    Identity,
    Interval,
    NamedCause,
    Onset,
    Reason,
    Round,
    Status,
    SubjectKind,
    Verdict,
)
from detectors.traffic_records import TrafficRound
from detectors.verdicts.changes import change_of, change_of_base
from detectors.verdicts.figures import facts_of, remarks, why_base_blocked, why_blocked, with_base_figures, with_figures


@dataclass(frozen=True, slots=True)
class Rules:
    """log_threshold: ln A of the fleet, nats, > 0 (alarm_budget.py); suspect_fraction: of it, where a good round is
    suspect

    fresh_rounds: good rounds in a row that resolve; blocked_rounds: rounds in a row without measurements before
    anybody is told (read by the alerts)
    """

    tolerances: Tolerances
    log_threshold: float
    suspect_fraction: float = 0.5
    fresh_rounds: int = 2
    blocked_rounds: int = 3

    def __post_init__(self) -> None:
        if not self.log_threshold > 0 or not 0 < self.suspect_fraction <= 1:
            raise Refused("rules", self, "log_threshold > 0 and suspect_fraction in (0, 1]")
        if min(self.fresh_rounds, self.blocked_rounds) < 1:
            raise Refused("rules", self, "fresh_rounds and blocked_rounds of at least 1")


@dataclass(frozen=True, slots=True)
class Incident:
    """All that is remembered of one subject between rounds; times in seconds, None where it never happened.

    last_good_at: last healthy round before the bad ones; first_bad_at: first bad round after it
    """

    open: bool = False
    opened_at: float | None = None
    cause: Cause = Cause.NONE
    last_good_at: float | None = None
    first_bad_at: float | None = None
    good_in_a_row: int = 0
    blocked_in_a_row: int = 0
    explanation: str = ""
    action: str = ""

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__} | {"cause": self.cause.value}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Incident:
        return cls(**{**stored, "cause": Cause(stored["cause"])})


@dataclass(frozen=True, slots=True)
class _Seen:
    """One measured round of a subject, reduced to what the decision needs, and remarks, which decide nothing.

    change: what is another one than accepted, None where nothing is
    onset_at: when the fault began, by the evidence so far; None where it cannot tell
    """

    at: float
    share: float
    good: bool
    change: Reason | None
    remarks: tuple[str, ...]
    onset_at: float | None


def decide(
    round: Round,
    evidence: Evidence,
    incident: Incident,
    rules: Rules,
    covered_by: str = "",
    *,
    onset_at: float | None = None,
    over_rounds: Interval | None = None,
) -> tuple[Verdict, Incident]:
    """The verdict on one adapter and its incident from now on.

    evidence: the level after this round; covered_by: the base whose open incident speaks for it, "" for none
    onset_at: when the evidence says that the fault began, by its CUSUM twin, and the alarm's answer while an incident
    is open (monitor.py keeps it); over_rounds: retention, anytime-valid
    """
    blank = replace(
        unjudged(SubjectKind.ADAPTER, round.adapter, round, rules),
        evidence=(evidence,),
        covered_by=covered_by,
        identity=round.identity,
        retention_over_rounds=over_rounds,
    )
    blocked = blocked_by(round)
    if blocked is not None:
        return _blocked(blank, blocked, why_blocked(round, blocked), incident)
    share = float(np.mean(draw_scores(round, rules.tolerances)))
    good = share <= rules.tolerances.share
    seen = _Seen(round.at, share, good, change_of(round, rules.tolerances), remarks(round, good), onset_at)
    reason, after = _step(seen, evidence.log_e, incident, rules)
    if after.open and (not good or not incident.open):
        after = with_cause(after, words_of(diagnose(round, rules.tolerances)))
    return _told(with_figures(blank, round), reason, seen, incident, after), after


def unjudged(kind: SubjectKind, subject: str, round: Round | BaseRound | TrafficRound, rules: Rules) -> Verdict:
    """What a verdict begins as: nothing was replayed, or heard, of this subject."""
    silent = Reason.NO_TRAFFIC if isinstance(round, TrafficRound) else Reason.NOT_REPLAYED_YET
    return Verdict(
        subject_kind=kind,
        subject=subject,
        base=round.base,
        round=round.number,
        at=round.at,
        status=Status.UNMONITORABLE,
        reason=silent,
        log_threshold=rules.log_threshold,
    )


def decide_base(
    round: BaseRound,
    evidence: Evidence,
    members: Sequence[Verdict],
    incident: Incident,
    rules: Rules,
    *,
    onset_at: float | None = None,
    over_rounds: Interval | None = None,
) -> tuple[Verdict, Incident]:
    """The verdict on a base of two members or more, and its incident from now on.

    members: this round's verdicts on its adapters. The cause is the one that most of the broken members show.
    onset_at, over_rounds: as of ``decide``
    """
    blank = replace(
        unjudged(SubjectKind.BASE, round.base, round, rules),
        evidence=(evidence,),
        members=tuple(v.subject for v in members if v.status is Status.DEGRADED),
        identity=members[0].identity if members else Identity(),
        retention_over_rounds=over_rounds,
    )
    median, measured = member_median(round, rules.tolerances)
    if measured < 2:
        return _blocked(blank, *why_base_blocked(members), incident)
    share = float(np.mean(median))
    good = share <= median_share(rules.tolerances.share, measured)
    seen = _Seen(round.at, share, good, change_of_base(round, rules.tolerances), facts_of(round), onset_at)
    reason, after = _step(seen, evidence.log_e, incident, rules)
    if after.open and (not good or not incident.open):
        after = with_cause(after, words_of(diagnose_base(round, rules.tolerances)))
    return _told(with_base_figures(blank, members), reason, seen, incident, after), after


def _step(seen: _Seen, log_e: float, before: Incident, rules: Rules) -> tuple[Reason, Incident]:
    """What this round means for the subject, and the incident's counters after it."""
    after = replace(before, blocked_in_a_row=0, good_in_a_row=before.good_in_a_row + 1 if seen.good else 0)
    if not seen.good and before.first_bad_at is None:
        after = replace(after, first_bad_at=seen.at)
    if before.open:
        if not seen.good:
            return Reason.STILL_DEGRADED, after
        if after.good_in_a_row < rules.fresh_rounds:
            return Reason.RECOVERING, after
        return Reason.RESOLVED, Incident(last_good_at=seen.at, good_in_a_row=after.good_in_a_row)
    if log_e >= rules.log_threshold:
        return Reason.ALARM, replace(after, open=True, opened_at=seen.at, good_in_a_row=0)
    if seen.good:
        after = replace(after, last_good_at=seen.at, first_bad_at=None)
    if not seen.good or log_e >= rules.suspect_fraction * rules.log_threshold:
        return Reason.EVIDENCE_GROWING, after
    return seen.change or Reason.WITHIN_TOLERANCE, after


_STATUS = {
    Reason.WITHIN_TOLERANCE: Status.HEALTHY,
    Reason.BASE_MOVED: Status.HEALTHY,
    Reason.TOKENIZER_CHANGED: Status.HEALTHY,
    Reason.TEMPLATE_CHANGED: Status.HEALTHY,
    Reason.ADAPTER_MOVED: Status.HEALTHY,
    Reason.RESOLVED: Status.HEALTHY,
    Reason.EVIDENCE_GROWING: Status.SUSPECT,
    Reason.ALARM: Status.DEGRADED,
    Reason.STILL_DEGRADED: Status.DEGRADED,
    Reason.RECOVERING: Status.DEGRADED,
}


def _told(blank: Verdict, reason: Reason, seen: _Seen, before: Incident, after: Incident) -> Verdict:
    """Status, cause, onset and words. A resolved verdict still says what it is that ended."""
    told = before if reason is Reason.RESOLVED else after
    status = _STATUS[reason]
    within = "; ".join([f"{100 * seen.share:.0f} % of the draws are beyond tolerance", *seen.remarks])
    onset = None
    if status is Status.DEGRADED or reason is Reason.RESOLVED:
        first = told.first_bad_at if told.first_bad_at is not None else told.opened_at
        onset = Onset(after=told.last_good_at, by=seen.at if first is None else first, estimate=seen.onset_at)
    return replace(
        blank,
        status=status,
        reason=reason,
        cause=told.cause if status is Status.DEGRADED else Cause.NONE,
        share_beyond=seen.share,
        onset=onset,
        explanation=f"{told.explanation}; {within}" if status is Status.DEGRADED else within,
        action=told.action if status is Status.DEGRADED else "",
    )


def with_cause(incident: Incident, found: NamedCause) -> Incident:
    """A cause may get sharper while the incident is open; "unknown" never replaces one that was named."""
    if found.cause is Cause.UNKNOWN and incident.cause not in (Cause.NONE, Cause.UNKNOWN):
        return incident
    return replace(incident, cause=found.cause, explanation=found.explanation, action=found.action)


def _blocked(blank: Verdict, reason: Reason, detail: str, incident: Incident) -> tuple[Verdict, Incident]:
    """No measurement: an open incident stays open, and good rounds in a row start again."""
    after = replace(incident, good_in_a_row=0, blocked_in_a_row=incident.blocked_in_a_row + 1)
    action = f"run gapwatch doctor and look at the files of {blank.subject}"
    verdict = replace(blank, reason=reason, explanation=detail, action=action, blocked_in_a_row=after.blocked_in_a_row)
    return verdict, after
