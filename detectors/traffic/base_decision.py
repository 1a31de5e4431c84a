"""Have the responses of most adapters of a base gone wrong together? Then one incident on the base speaks for them.

Pure, and no test of its own: it opens only in a round in which a member's evidence is an alarm, so that it adds no
false page to those that the fleet's budget allows; it decides whose page that is. As of canaries, it takes more than
half of the members that were heard, at least two, and a single bad adapter never opens it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from detectors.records import Cause, Evidence, Identity, NamedCause, Onset, Reason, Status, SubjectKind, Verdict
from detectors.traffic.adapter_decision import STATUS, ResponseIncident
from detectors.traffic_records import TrafficRound
from detectors.verdicts.decision import Incident, Rules, unjudged, with_cause
from detectors.verdicts.figures import why_base_blocked

GROWING = "evidence growing"


@dataclass(frozen=True, slots=True)
class Members:
    """How the adapters of one base stand after a round, by all that was heard of them.

    bad: verdicts on those with an open incident, or with evidence enough to suspect them and no good round since
    well: how many were heard to be well since the first of them went wrong; settled: of those, how many in as many
    rounds in a row as end an incident; seen: what is remembered, by adapter
    """

    bad: tuple[Verdict, ...]
    well: int
    settled: int
    seen: Mapping[str, ResponseIncident]

    @property
    def most(self) -> bool:
        return len(self.bad) >= 2 and len(self.bad) > self.well

    @property
    def recovering(self) -> bool:
        """Was the latest word of each of them a good one?"""
        return all(self.seen[verdict.subject].incident.good_in_a_row for verdict in self.bad)

    @property
    def began(self) -> float | None:
        """When the evidence says that it began, of the earliest."""
        told = [self.seen[verdict.subject].began for verdict in self.bad]
        return min((at for at in told if at is not None), default=None)


def decide_traffic_base(
    round: TrafficRound,
    verdicts: Sequence[Verdict],
    seen: Mapping[str, ResponseIncident],
    before: Incident,
    rules: Rules,
) -> tuple[Verdict, Incident]:
    """The verdict on a base of two adapters or more by their responses, and its incident from now on.

    verdicts: this round's, on each of them; seen: adapter -> what is remembered of it after this round
    It ends when at least half of those heard are well for good; what is still at fault then speaks for itself.
    """
    identity = verdicts[0].identity if verdicts else Identity()
    blank = replace(unjudged(SubjectKind.BASE, round.base, round, rules), identity=identity)
    if all(verdict.status is Status.UNMONITORABLE for verdict in verdicts):
        return _silent(blank, verdicts, before)
    members = standing(verdicts, seen, rules)
    alarmed = any(verdict.reason is Reason.ALARM for verdict in verdicts)
    reason, after = _step(round.at, members, alarmed, before)
    if after.open:
        after = with_cause(after, _in_common(round.base, members))
    return _told(blank, reason, members, before, after), after


def standing(verdicts: Sequence[Verdict], seen: Mapping[str, ResponseIncident], rules: Rules) -> Members:
    """Who is at fault and who is well. One that was not heard since the trouble began is neither."""
    enough = rules.suspect_fraction * rules.log_threshold
    bad = tuple(v for v in verdicts if _at_fault(v, seen[v.subject], enough))
    if not bad:
        return Members((), 0, 0, seen)
    since = min(_first_bad(seen[verdict.subject].incident) for verdict in bad)
    others = [seen[v.subject].incident for v in verdicts if v not in bad]
    good = [it.good_in_a_row for it in others if it.last_good_at is not None and it.last_good_at >= since]
    settled = sum(rounds >= rules.fresh_rounds for rounds in good)
    return Members(bad, sum(rounds > 0 for rounds in good), settled, seen)


def _at_fault(verdict: Verdict, seen: ResponseIncident, enough: float) -> bool:
    suspect = seen.incident.first_bad_at is not None and not seen.incident.good_in_a_row
    return seen.open or (suspect and max((e.log_e for e in verdict.evidence if e.pages), default=0.0) >= enough)


def _first_bad(incident: Incident) -> float:
    told = (incident.first_bad_at, incident.opened_at)
    return min((at for at in told if at is not None), default=0.0)


def _step(at: float, members: Members, alarmed: bool, before: Incident) -> tuple[Reason, Incident]:
    good = not members.bad or members.recovering
    now = replace(before, blocked_in_a_row=0, good_in_a_row=before.good_in_a_row + 1 if good else 0)
    if before.open:
        # One good round of a member that was only suspect is no reason to hand the page over, and back the next time.
        if len(members.bad) + members.well <= 2 * members.settled:
            return Reason.RESOLVED, Incident(last_good_at=at, good_in_a_row=max(now.good_in_a_row, 1))
        return (Reason.RECOVERING if good else Reason.STILL_DEGRADED), now
    if members.most and alarmed:
        first = min((members.seen[v.subject].incident for v in members.bad), key=_first_bad)
        found = Incident(open=True, opened_at=at, last_good_at=first.last_good_at, first_bad_at=_first_bad(first))
        return Reason.ALARM, found
    if good:
        now = replace(now, last_good_at=at)
    return (Reason.EVIDENCE_GROWING if members.most else Reason.WITHIN_TOLERANCE), now


def _in_common(base: str, members: Members) -> NamedCause:
    """The cause that most of them show, each one's in words, and what to do first."""
    named = {verdict.subject: members.seen[verdict.subject].incident for verdict in members.bad}
    causes = Counter(it.cause for it in named.values() if it.open)
    cause = causes.most_common(1)[0][0] if causes else Cause.UNKNOWN
    leading = next((it for it in named.values() if it.open and it.cause is cause), Incident())
    alike: dict[str, list[str]] = {}
    for name, it in named.items():
        alike.setdefault(it.cause.value.replace("_", " ") if it.open else GROWING, []).append(name)
    each = "; ".join(f"{what}: {', '.join(names)}" for what, names in alike.items())
    heard = len(members.bad) + members.well
    what = f"responses of {len(members.bad)} of {heard} adapters of {base} no longer read as accepted ({each})"
    do = f"look first at what they share, the engine and the base, and at its last release; then: {leading.action}"
    return NamedCause(cause, "; ".join(filter(None, (what, leading.explanation))), do.removesuffix("; then: "))


def _told(blank: Verdict, reason: Reason, members: Members, before: Incident, after: Incident) -> Verdict:
    told = before if reason is Reason.RESOLVED else after
    status, onset = STATUS[reason], None
    if status is Status.DEGRADED or reason is Reason.RESOLVED:
        assert told.first_bad_at is not None
        onset = Onset(told.last_good_at, told.first_bad_at, members.began)
    left = ", ".join(verdict.subject for verdict in members.bad)
    words = f"at fault by their responses: {left}" if left else "no adapter is at fault by its responses"
    return replace(
        blank,
        status=status,
        reason=reason,
        cause=told.cause if status is Status.DEGRADED else Cause.NONE,
        members=tuple(verdict.subject for verdict in members.bad) if status is Status.DEGRADED else (),
        evidence=tuple(_loudest(verdict) for verdict in members.bad if any(e.pages for e in verdict.evidence)),
        onset=onset,
        explanation=told.explanation if status is Status.DEGRADED else words,
        action=told.action if status is Status.DEGRADED else "",
    )


def _loudest(verdict: Verdict) -> Evidence:
    return max((e for e in verdict.evidence if e.pages), key=lambda e: e.log_e)


def _silent(blank: Verdict, verdicts: Sequence[Verdict], before: Incident) -> tuple[Verdict, Incident]:
    """Nobody was heard: an open incident stays open."""
    after = replace(before, blocked_in_a_row=before.blocked_in_a_row + 1)
    quiet = all(verdict.reason is Reason.NO_TRAFFIC for verdict in verdicts)
    reason, words = Reason.NO_TRAFFIC if quiet else Reason.NOT_SCORED, why_base_blocked(verdicts)[1]
    told = replace(blank, reason=reason, explanation=words, action=verdicts[0].action if verdicts else "")
    return replace(told, blocked_in_a_row=after.blocked_in_a_row), after
