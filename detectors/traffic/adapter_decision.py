"""What is decided about an adapter from sampled responses alone? Pure, like decision.py, whose rules it shares.

An incident opens at an alarm of a stream that may page. It ends after ``fresh_rounds`` good rounds with no bad one
between, and not before as many responses were good in them as make a chance of all faulty ones having been missed at
most 5 %: of one replica in ten, two rounds of a few responses show nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from detectors.records import Cause, Evidence, Identity, Interval, Onset, Reason, Status, SubjectKind, Verdict
from detectors.traffic.response_summary import Heard
from detectors.traffic_records import TrafficRound
from detectors.verdicts.decision import Incident, Rules, unjudged, with_cause

MISSED = 0.05
# Of responses against it: below this share the others are as accepted, and some replicas are not at fault.
NEARLY_ALL = 0.9
OTHER = "adapter:"
STRENGTHS = ("half", "double", "path")


@dataclass(frozen=True, slots=True)
class TrafficIncident:
    """What is remembered of one adapter's responses between rounds.

    began: when the fault began, by the evidence at the alarm
    heard, against, favour: responses scored since the first bad round; those that clearly spoke against it, or for it
    fresh: good responses in a row; bad_pods, pods: replicas heard since the first bad round
    """

    incident: Incident = field(default_factory=Incident)
    heard: int = 0
    against: int = 0
    favour: int = 0
    fresh: int = 0
    bad_pods: tuple[str, ...] = ()
    pods: tuple[str, ...] = ()
    began: float | None = None

    @property
    def open(self) -> bool:
        return self.incident.open

    @property
    def share(self) -> float:
        """Of the responses since the first bad round, the share that spoke against it; 1 where none was counted."""
        return self.against / self.heard if self.heard and self.against else 1.0

    def to_json(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in ("heard", "against", "favour", "fresh", "began")}
        return {**plain, "incident": self.incident.to_json(), "bad_pods": list(self.bad_pods), "pods": list(self.pods)}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> TrafficIncident:
        told = {**stored, "incident": Incident.from_json(stored["incident"])}
        return cls(**{**told, "bad_pods": tuple(stored["bad_pods"]), "pods": tuple(stored["pods"])})


@dataclass(frozen=True, slots=True)
class Reading:
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
    heard: Heard,
    reading: Reading,
    before: TrafficIncident,
    rules: Rules,
) -> tuple[Verdict, TrafficIncident]:
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
        found = name_traffic_cause(adapter, after, heard.leading, reading, blank.identity)
        after = replace(after, incident=with_cause(after.incident, found))
    return _told(blank, reason, heard, reading, before, after), after


def name_traffic_cause(
    adapter: str, seen: TrafficIncident, name: str, reading: Reading, identity: Identity
) -> tuple[Cause, str, str]:
    """Cause, what was seen and the first thing to do, by the alternative that explains the words best, ``name``.

    The alternatives were written down before the words were; which of them leads is a score, not a test.
    """
    wrote = _writer(adapter, name, reading.strength)
    share = f"{seen.against} of {seen.heard} sampled responses"
    if _some_replicas(seen):
        where = (
            f", all from {', '.join(seen.bad_pods)}" if seen.bad_pods and set(seen.bad_pods) < set(seen.pods) else ""
        )
        do = f"take {', '.join(seen.bad_pods) or 'the odd replicas'} out of rotation, then reload {adapter} there"
        return Cause.ONE_REPLICA, f"{share} of {adapter} read as if {wrote}{where}; the others as accepted", do
    what = f"responses of {adapter} read as if {wrote} ({share} speak against what was accepted)"
    if name == "base" and identity.base_moved:
        do = f"put the former base back, or retrain {adapter} on the new one; until then do not serve it"
        return Cause.BASE_SWAPPED_AND_ADAPTER_LOST, f"{what}; and the weights of the base are other ones", do
    return _named(adapter, name, what)


def _some_replicas(seen: TrafficIncident) -> bool:
    """Do clear responses fall into two kinds, and not within every replica alike? Weak evidence against it alone is no
    sign of that: the others need not read as accepted."""
    clear = seen.against + seen.favour
    everywhere = len(seen.pods) > 1 and set(seen.bad_pods) == set(seen.pods)
    return bool(seen.against and seen.favour) and seen.against / clear < NEARLY_ALL and clear >= 8 and not everywhere


def _named(adapter: str, name: str, what: str) -> tuple[Cause, str, str]:
    look = f"compare what the engine serves under the name {adapter} with what was accepted"
    if name == "base":
        return (
            Cause.ADAPTER_NOT_APPLIED,
            what,
            f"check that the engine loads {adapter}: key names, requested name, reload",
        )
    if name == "4 bits":
        return (
            Cause.QUANTISED_BASE,
            what,
            "compare dtype and quantisation of the served base with the last good release",
        )
    if name == "previous":
        do = f"unload {adapter} and load its present files again; restart the engine if it still serves the old ones"
        return Cause.WRONG_ADAPTER, what, do
    if name.startswith(OTHER):
        return Cause.WRONG_ADAPTER, what, f"check what is routed and cached under the name {adapter}"
    if name.startswith(STRENGTHS):
        return (
            Cause.WRONG_STRENGTH,
            what,
            f"compare alpha, r and use_rslora of {adapter} with the scale the engine applies",
        )
    return Cause.UNKNOWN, what, look


def _writer(adapter: str, name: str, strength: Interval | None) -> str:
    left = ""
    if strength is not None and math.isfinite(strength.low):
        left = f", {strength.mean:.2f} of the way from base to adapter ({strength.low:.2f}..{strength.high:.2f})"
    if name == "base":
        return f"the accepted base wrote them{left}"
    if name == "previous":
        return f"the version of {adapter} accepted before wrote them"
    if name.startswith(OTHER):
        return f"{name.removeprefix(OTHER)} wrote them"
    if name == "4 bits":
        return f"{adapter} on a base of 4-bit weights wrote them"
    if name.startswith(STRENGTHS):
        return f"{adapter} at another strength wrote them{left}"
    return f"something else than {adapter} wrote them{left}"


def _counted(before: TrafficIncident, heard: Heard, log_e: float) -> TrafficIncident:
    """Counts since the first bad round, the good ones between included; they start again where no evidence is left."""
    if heard.good and not before.open and log_e <= 0.0:
        return TrafficIncident(before.incident)
    if heard.good:
        favour, pods = before.favour + heard.favour, tuple(sorted({*before.pods, *heard.pods}))
        return replace(before, fresh=before.fresh + heard.scored, favour=favour, pods=pods)
    return replace(
        before,
        heard=before.heard + before.fresh + heard.scored,
        against=before.against + heard.against,
        favour=before.favour + heard.favour,
        fresh=0,
        bad_pods=tuple(sorted({*before.bad_pods, *heard.bad_pods})),
        pods=tuple(sorted({*before.pods, *heard.pods})),
    )


def _step(at: float, heard: Heard, log_e: float, seen: TrafficIncident, rules: Rules) -> tuple[Reason, TrafficIncident]:
    now = replace(seen.incident, blocked_in_a_row=0, good_in_a_row=seen.incident.good_in_a_row + 1 if heard.good else 0)
    if heard.bad and now.first_bad_at is None:
        now = replace(now, first_bad_at=at)
    if now.open:
        if heard.bad:
            return Reason.STILL_DEGRADED, replace(seen, incident=now)
        if now.good_in_a_row < rules.fresh_rounds or not _enough(seen):
            return Reason.RECOVERING, replace(seen, incident=now)
        return Reason.RESOLVED, TrafficIncident(Incident(last_good_at=at, good_in_a_row=now.good_in_a_row))
    if log_e >= rules.log_threshold:
        return Reason.ALARM, replace(seen, incident=replace(now, open=True, opened_at=at, good_in_a_row=0))
    if heard.good:
        now = replace(now, last_good_at=at, first_bad_at=None)
    suspect = heard.bad or log_e >= rules.suspect_fraction * rules.log_threshold
    return (Reason.EVIDENCE_GROWING if suspect else Reason.WITHIN_TOLERANCE), replace(seen, incident=now)


def _enough(seen: TrafficIncident) -> bool:
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
    blank: Verdict, reason: Reason, heard: Heard, reading: Reading, before: TrafficIncident, after: TrafficIncident
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


def in_words(heard: Heard) -> str:
    """ "12 responses scored (340 tokens), 0 against what was accepted"."""
    aside = f", {heard.unscored} not scored: {heard.why}" if heard.unscored else ""
    return f"{heard.scored} responses scored ({heard.tokens} tokens), {heard.against} against what was accepted{aside}"


def _silent(blank: Verdict, heard: Heard, before: TrafficIncident) -> tuple[Verdict, TrafficIncident]:
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
