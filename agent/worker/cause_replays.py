"""Faults replayed for open incidents: which incidents, with which adapters, and how much time they may take.

The page has gone out with the cause as far as its round tells. Afterwards, between other work, the worker replays
likely faults on the accepted base and adapters (probes/causes/), and the same round, measured against these signatures,
goes to the judge as one ``FaultReplay``. While the incident is open later rounds of the adapter are measured against
them too.

``submit`` belongs to the loop's thread, everything else to the worker's. Nothing is saved: after a restart the next bad
round of an open incident asks again.
"""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from agent.clock import Clock
from agent.records import Finding, GoldenAccepted
from detectors.canaries.retention import unprepared
from detectors.records import (
    BaseRound,
    Cause,
    FaultReplay,
    Measurement,
    Reason,
    Round,
    ShareOf,
    Status,
    Subject,
    SubjectKind,
    Verdict,
)
from probes.canaries.flipped_answers import damage
from probes.causes.adapter_replay import AdapterReplay
from probes.causes.fault_signatures import why_no_copies
from probes.causes.likely_faults import may_say_more
from probes.golden.record import Golden, Unmonitorable
from probes.runner import Breakable, Runner, Stop

# Adapters of a base's incident that faults are replayed with: what is wrong with their base shows in a few.
MEMBERS = 3
# Seconds of replaying for one incident, and of waiting for the chance to: then it is named by what there is.
BUSY_S, WAITING_S = 120.0, 600.0
# Adapters whose signatures are kept while their incidents are open, some megabytes each: the latest ones.
MOST_SIGNED = 16
# Causes to which no signature adds anything.
COMPLETE = (Cause.ADAPTER_NOT_APPLIED, Cause.TEMPLATE_CHANGED, Cause.SERVING_PATH)
OPEN = (Reason.ALARM, Reason.STILL_DEGRADED)

InForce = Mapping[str, Golden | Unmonitorable]


class _Wanted(NamedTuple):
    """Faults to replay. subject: whose incident; adapters: with which; since: seconds of the steady clock"""

    subject: Subject
    round: BaseRound
    adapters: tuple[str, ...]
    since: float


class _Ended(NamedTuple):
    """The incident is over, or another one speaks for it."""

    subject: Subject
    adapters: tuple[str, ...]


@dataclass(slots=True)
class _Job:
    """One incident's replays. members: with which adapters, the first ones finished; missing: what cannot be replayed

    busy_s: seconds that it has taken
    """

    wanted: _Wanted
    members: list[AdapterReplay]
    missing: list[str]
    busy_s: float = 0.0


@dataclass(slots=True)
class CauseReplays:
    """clock: of the worker"""

    clock: Clock
    _latest: dict[str, BaseRound] = field(default_factory=dict)
    _known: dict[Subject, tuple[str, ...]] = field(default_factory=dict)
    _changes: queue.SimpleQueue[_Wanted | _Ended] = field(default_factory=queue.SimpleQueue)
    _jobs: deque[_Job | _Wanted] = field(default_factory=deque)
    _signed: dict[str, Golden] = field(default_factory=dict)

    def submit(self, finding: Finding) -> None:
        """A round, which a verdict after it may be about, a verdict, or another golden record in force."""
        match finding:
            case BaseRound():
                self._latest[finding.base] = _light(finding)
            case GoldenAccepted():
                self._end((SubjectKind.ADAPTER, finding.adapter))
            case Verdict(share_of=ShareOf.DRAWS | ShareOf.SCORES):
                self._follow(finding)

    def with_signatures(self, goldens: InForce) -> InForce:
        """The records in force, each with the signatures that were made for an open incident of its adapter."""
        signed = self._signed
        return {name: signed[name] if _is_of(signed.get(name), golden) else golden for name, golden in goldens.items()}

    def forget(self, base: str, adapters: Collection[str]) -> None:
        """Another agent judges this base from now on, and names the causes of its incidents."""
        self._take()
        self._jobs = deque(job for job in self._jobs if _wanted(job).round.base != base)
        for name in adapters:
            self._signed.pop(name, None)
        for subject in ((SubjectKind.BASE, base), *((SubjectKind.ADAPTER, name) for name in adapters)):
            self._known.pop(subject, None)

    @property
    def waiting(self) -> bool:
        """Is there something to replay?"""
        self._take()
        return bool(self._jobs)

    @property
    def base(self) -> str:
        """Of the next fault. Raises IndexError where nothing is waiting."""
        return _wanted(self._jobs[0]).round.base

    @property
    def overdue(self) -> bool:
        """Has the next one waited so long that it ends with what there is? Raises IndexError where nothing is waiting.

        Where rounds take longer than their schedule there is never a turn for a fault, and that has to be said."""
        return self._waited_long(self._jobs[0])

    def step(self, runner: Runner, goldens: InForce, stop: Stop) -> FaultReplay | None:
        """Replay one fault; what an incident's replays gave once the last one is done, or its time is up.

        An error ends the replays of its incident: it would come again at each further step.
        """
        first, began = self._jobs.popleft(), self.clock.steady()
        job = _begun(first, runner, goldens) if isinstance(first, _Wanted) else first
        # What the runner holds as accepted is another adapter now: its answers are no faults of the former one.
        job.members = [member for member in job.members if _is_of(member.golden, goldens.get(member.golden.adapter))]
        more = any(member.step(stop) for member in job.members)  # the first that has a fault left
        job.busy_s += self.clock.steady() - began
        late = job.busy_s > BUSY_S or self._waited_long(job)
        if more and not late:
            self._jobs.appendleft(job)
            return None
        return self._finished(job)

    def _waited_long(self, job: _Job | _Wanted) -> bool:
        return self.clock.steady() - _wanted(job).since > WAITING_S

    def _follow(self, verdict: Verdict) -> None:
        subject = verdict.subject_kind, verdict.subject
        if verdict.covered_by or verdict.status in (Status.HEALTHY, Status.SUSPECT):
            self._end(subject)
            return
        latest = self._latest.get(verdict.base)
        is_latest = latest is not None and (latest.number, latest.at) == (verdict.round, verdict.at)
        if latest is None or not is_latest or verdict.reason not in OPEN or verdict.cause in COMPLETE:
            return
        if verdict.reason is Reason.ALARM:
            self._end(subject)  # the former incident's end may have been spoken for by responses
        if subject not in self._known:
            self._known[subject] = _with_which(latest, verdict)
            self._changes.put(_Wanted(subject, latest, self._known[subject], self.clock.steady()))

    def _end(self, subject: Subject) -> None:
        adapters = self._known.pop(subject, None)
        if adapters is not None:
            self._changes.put(_Ended(subject, adapters))

    def _take(self) -> None:
        """What the loop has asked for since."""
        while not self._changes.empty():
            change = self._changes.get()
            if isinstance(change, _Wanted):
                self._jobs.append(change)
                continue
            self._jobs = deque(job for job in self._jobs if _subject(job) != change.subject)
            for name in change.adapters:
                self._signed.pop(name, None)

    def _finished(self, job: _Job) -> FaultReplay | None:
        """None where there was nothing to replay and no reason to say so."""
        replayed = [member for member in job.members if member.replayed]
        left = sum(len(member.pending) for member in job.members)
        missing = [*job.missing, *([f"{left} fault{'s' * (left > 1)} for lack of time"] if left else [])]
        if not replayed and not missing:
            return None
        for member in replayed:
            self._signed.pop(member.golden.adapter, None)
            self._signed[member.golden.adapter] = member.signed()
        for name in list(self._signed)[:-MOST_SIGNED]:
            del self._signed[name]
        return FaultReplay(
            *job.wanted.subject,
            round=job.wanted.round,
            members=tuple(member.measured() for member in replayed),
            faults=sum(member.replayed for member in replayed),
            at=self.clock.now(),
            missing="; ".join(missing),
        )


def _begun(wanted: _Wanted, runner: Runner, goldens: InForce) -> _Job:
    """Of a runner that injects no faults, such as that of a serving engine, there is nothing to replay, and no incident
    says so: it is true of all of them, and gapwatch doctor says it once."""
    if not isinstance(runner, Breakable):
        return _Job(wanted, [], [])
    rounds = {member.adapter: member for member in wanted.round.members}
    members, missing = [], []
    for name in wanted.adapters:
        golden = goldens.get(name)
        if not may_say_more(rounds[name]):
            continue
        if not isinstance(golden, Golden):
            missing.append(f"{name}: {golden.detail if golden else 'no golden record'}")
        elif why := why_no_copies(runner, golden):
            missing.append(f"{name}: {why}")
        else:
            members.append(AdapterReplay.of(runner, golden, rounds[name]))
    return _Job(wanted, members, missing)


def _with_which(round: BaseRound, verdict: Verdict) -> tuple[str, ...]:
    """The adapter; of a base the most damaged of its broken adapters, or of all where none is called broken itself."""
    if verdict.subject_kind is SubjectKind.ADAPTER:
        return (verdict.subject,)
    measured = [member for member in round.members if member.measurements]
    broken = [member for member in measured if member.adapter in verdict.members] or measured
    return tuple(member.adapter for member in sorted(broken, key=_damage, reverse=True)[:MEMBERS])


def _damage(member: Round) -> float:
    return sum(map(damage, member.measurements)) / len(member.measurements)


def _light(round: BaseRound) -> BaseRound:
    """The round without what was derived for its judgement."""

    def light(measurements: Sequence[Measurement]) -> tuple[Measurement, ...]:
        comparisons = (replace(m.comparison, reference=unprepared(m.comparison.reference)) for m in measurements)
        return tuple(replace(m, comparison=c) for m, c in zip(measurements, comparisons, strict=True))

    members = (
        replace(m, measurements=light(m.measurements), raw=light(m.raw), cells=light(m.cells)) for m in round.members
    )
    return replace(round, members=tuple(members))


def _is_of(replayed: Golden | None, in_force: Golden | Unmonitorable | None) -> bool:
    """Is it the record in force, with signatures or without?"""
    return replayed is not None and isinstance(in_force, Golden) and replayed.hash == in_force.hash


def _subject(job: _Job | _Wanted) -> Subject:
    return _wanted(job).subject


def _wanted(job: _Job | _Wanted) -> _Wanted:
    return job if isinstance(job, _Wanted) else job.wanted
