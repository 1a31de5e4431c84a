"""Have the responses of most adapters of a base gone wrong together? Then one incident on the base speaks for them.

Pure, and no test of its own: it opens only in a round in which a member's evidence is an alarm, so that it adds no
false page to those that the fleet's budget allows; it decides whose page that is. As of canaries, it takes more than
half of the members with scored responses, at least two, and a single bad adapter never opens it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from shlex import quote

from detectors.name_list import first_names
from detectors.on_call_text import (
    AT_FAULT,
    BASE_RESPONSES,
    EVIDENCE_GROWING,
    LOOK_AT_BASE,
    NONE_AT_FAULT,
    THEN,
    TOGETHER,
)
from detectors.records import Cause, Evidence, Identity, NamedCause, Reason, Status, SubjectKind, Verdict
from detectors.traffic.adapter_decision import ResponseIncident
from detectors.traffic_records import TrafficRound
from detectors.verdicts.figures import why_base_blocked
from detectors.verdicts.incident import (
    BY_MEMBERS,
    GOOD_ROUNDS,
    Incident,
    Outcome,
    RoundResult,
    Rules,
    Step,
    advance,
)
from detectors.verdicts.report import report, unjudged


@dataclass(frozen=True, slots=True)
class Members:
    """How the adapters of one base stand after a round, by all of their responses so far.

    bad: verdicts on those with an open incident, or with evidence enough to suspect them and no good round since
    well: how many had good responses since the first of them went wrong; settled: of those, how many in as many
    rounds in a row as end an incident; incidents: what is remembered, by adapter
    """

    bad: tuple[Verdict, ...]
    well: int
    settled: int
    incidents: Mapping[str, ResponseIncident]

    @property
    def scored(self) -> int:
        """Members with scored responses since the first of them went wrong: at fault, or well."""
        return len(self.bad) + self.well

    @property
    def most_bad(self) -> bool:
        return len(self.bad) >= 2 and len(self.bad) > self.well

    @property
    def half_settled(self) -> bool:
        """Are at least half of them well for as many rounds as end an incident? One good round of a member that was
        only suspect is no reason to hand the page over, and back the next time."""
        return self.scored <= 2 * self.settled

    @property
    def recovering(self) -> bool:
        """Was the latest scored round of each bad one good?"""
        return all(self.incidents[verdict.subject].incident.good_in_a_row for verdict in self.bad)

    @property
    def alarm_level(self) -> float:
        """Nats, of the bad ones that alarm in this very round; an alarm of an earlier one is a page already sent."""
        alarmed = [verdict for verdict in self.bad if verdict.reason is Reason.ALARM]
        return max((_strongest(verdict).log_e for verdict in alarmed), default=0.0)

    @property
    def bad_pods(self) -> tuple[str, ...]:
        """Replicas of responses that speak against one of the bad ones, sorted; ``pods``: of all their responses."""
        return tuple(sorted({pod for v in self.bad for pod in self.incidents[v.subject].counts.bad_pods}))

    @property
    def pods(self) -> tuple[str, ...]:
        return tuple(sorted({pod for v in self.bad for pod in self.incidents[v.subject].counts.pods}))

    @property
    def onset_at(self) -> float | None:
        """When the evidence says that it began, of the earliest."""
        estimates = [self.incidents[verdict.subject].incident.onset_estimate for verdict in self.bad]
        return min((at for at in estimates if at is not None), default=None)


def decide_traffic_base(
    round: TrafficRound,
    verdicts: Sequence[Verdict],
    incidents: Mapping[str, ResponseIncident],
    before: Incident,
    rules: Rules,
) -> tuple[Verdict, Incident]:
    """The verdict on a base of two adapters or more by their responses, and its incident from now on.

    verdicts: this round's, on each of them; incidents: adapter -> what is remembered of it after this round
    It ends when at least half of those with scored responses are settled; what is still at fault then has an
    incident of its own.
    """
    identity = verdicts[0].identity if verdicts else Identity()
    blank = replace(unjudged(SubjectKind.BASE, round.base, round, rules), identity=identity)
    if all(verdict.status is Status.UNMONITORABLE for verdict in verdicts):
        return _unmeasured(blank, verdicts, before, rules)
    members = standing(verdicts, incidents, rules)
    if before.open and before.onset_estimate is None:  # from saved state of an earlier version, which had it of members
        before = replace(before, onset_estimate=members.onset_at)
    step = advance(before, _result(round.at, members, before.open), rules, BY_MEMBERS)
    if step.reason is Reason.ALARM:
        first = min((incidents[v.subject].incident for v in members.bad), key=_first_bad)
        began = replace(step.after, last_good_at=first.last_good_at, first_bad_at=_first_bad(first))
        step = replace(step, after=began)
    if step.after.open:
        step = step.with_cause(_in_common(round.base, members))
    return _measured(blank, step, members), step.after


def standing(verdicts: Sequence[Verdict], incidents: Mapping[str, ResponseIncident], rules: Rules) -> Members:
    """Who is at fault and who is well. One without scored responses since the trouble began is neither."""
    bad = tuple(v for v in verdicts if _at_fault(v, incidents[v.subject], rules))
    if not bad:
        return Members((), 0, 0, incidents)
    since = min(_first_bad(incidents[verdict.subject].incident) for verdict in bad)
    others = [incidents[v.subject].incident for v in verdicts if v not in bad]
    good = [other.good_in_a_row for other in others if other.last_good_at is not None and other.last_good_at >= since]
    settled = sum(rounds >= GOOD_ROUNDS for rounds in good)
    return Members(bad, sum(rounds > 0 for rounds in good), settled, incidents)


def _at_fault(verdict: Verdict, member: ResponseIncident, rules: Rules) -> bool:
    suspect = member.incident.first_bad_at is not None and not member.incident.good_in_a_row
    level = max((e.log_e for e in verdict.evidence if e.pages), default=0.0)
    return member.open or (suspect and level >= rules.suspect_level)


def _first_bad(incident: Incident) -> float:
    bad = (incident.first_bad_at, incident.opened_at)
    return min((at for at in bad if at is not None), default=0.0)


def _result(at: float, members: Members, is_open: bool) -> RoundResult:
    """Outside an incident a base is bad where most of its members are; inside one, while one of them still is."""
    if not is_open:
        outcome, level = (Outcome.BAD, members.alarm_level) if members.most_bad else (Outcome.GOOD, 0.0)
        return RoundResult(at, outcome, log_e=level, onset_at=members.onset_at)
    good = members.half_settled or members.recovering
    return RoundResult(at, Outcome.GOOD if good else Outcome.BAD, may_end=members.half_settled)


def _in_common(base: str, members: Members) -> NamedCause:
    """The cause that most of them show, each one's in words, and what to do first."""
    incidents = {verdict.subject: members.incidents[verdict.subject].incident for verdict in members.bad}
    causes = Counter(incident.cause for incident in incidents.values() if incident.open)
    cause = causes.most_common(1)[0][0] if causes else Cause.UNKNOWN
    leading = next((i for i in incidents.values() if i.open and i.cause is cause), Incident())
    alike: dict[str, list[str]] = {}
    for adapter, incident in incidents.items():
        shown = incident.cause.value.replace("_", " ") if incident.open else EVIDENCE_GROWING
        alike.setdefault(shown, []).append(adapter)
    each = "; ".join(f"{shown}: {first_names(adapters)}" for shown, adapters in alike.items())
    together = BASE_RESPONSES.format(bad=len(members.bad), scored=members.scored, base=base, causes=each)
    # What is named of one is done for those too whose evidence only grows yet.
    names = [name for name, incident in incidents.items() if not incident.open or incident.cause is cause]
    shared = TOGETHER.get(cause, "").format(names=first_names(names), base_argument=quote(base))
    then = shared if len(names) > 1 and shared else leading.action
    action = THEN.format(first=LOOK_AT_BASE, action=then) if then else LOOK_AT_BASE
    return NamedCause(cause, "; ".join(filter(None, (together, leading.explanation))), action)


def _measured(blank: Verdict, step: Step, members: Members) -> Verdict:
    bad = tuple(verdict.subject for verdict in members.bad)
    degraded = step.status is Status.DEGRADED
    figures = AT_FAULT.format(adapters=first_names(bad)) if bad else NONE_AT_FAULT
    evidence = tuple(_strongest(verdict) for verdict in members.bad if any(e.pages for e in verdict.evidence))
    verdict = report(blank, step, "" if degraded else figures)  # the words of the incident name them too
    verdict = replace(verdict, members=bad if degraded else (), evidence=evidence)
    return replace(verdict, bad_pods=members.bad_pods, pods=members.pods) if degraded else verdict


def _strongest(verdict: Verdict) -> Evidence:
    return max((e for e in verdict.evidence if e.pages), key=lambda e: e.log_e)


def _unmeasured(
    blank: Verdict, verdicts: Sequence[Verdict], before: Incident, rules: Rules
) -> tuple[Verdict, Incident]:
    """No member's responses were scored: an open incident stays open, and a round without requests changes nothing."""
    words, action = why_base_blocked(verdicts)[1], verdicts[0].action if verdicts else ""
    if all(verdict.reason is Reason.NO_TRAFFIC for verdict in verdicts):
        return report(blank, Step(blank.at, Reason.NO_TRAFFIC, before, before), words, action), before
    step = advance(before, RoundResult(blank.at, Outcome.SILENT, Reason.NOT_SCORED), rules, BY_MEMBERS)
    return report(blank, step, words, action), step.after
