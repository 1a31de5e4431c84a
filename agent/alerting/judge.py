"""A record in, findings out: the monitor judges it, and notices are made of what it says.

All that changes while judging is here, and is saved and restored whole: a key that is renamed has to be read under its
former name too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson
import structlog

from agent.alerting.alert_state import AlertState, Reported, States
from agent.alerting.changes import OldGoldens, RunningOut
from agent.alerting.checkpoint import VERSION, StateFile
from agent.alerting.fleet import ALONE, LEAST_FRESH_S, Fleet, GoneState, SentIncident
from agent.alerting.incidents import reenrolled, step_round
from agent.alerting.judged_bases import EVERYTHING, JudgedBases, Wait
from agent.alerting.judged_state import JudgedState, replayed, subjects_of
from agent.alerting.notice import dedup_key, state_key
from agent.alerting.notice_text import day_of, smallest_loss_words, with_roll_back
from agent.alerting.policy import DEFAULT, Policy
from agent.alerting.rounds_due import judged_by_nobody, not_judged
from agent.records import (
    AdapterClock,
    Finding,
    GoldenAccepted,
    Notice,
    NoticeKind,
    Observation,
    PartitionAdapter,
    PassportClocks,
    SavedState,
    ScoredResponses,
    TrafficBatch,
)
from detectors.monitor import Monitor
from detectors.records import (
    BaseRound,
    Cause,
    FaultReplay,
    FilesReplay,
    FilesRound,
    Status,
    Subject,
    SubjectKind,
    Verdict,
)
from detectors.traffic_records import TrafficRound
from detectors.verdicts.three_way import with_files

AskFleet = Callable[[Collection[Subject]], Fleet | None]

# Seconds that an answer about the states of pods that are gone may take: before anything is read, and between turns.
AT_START_S, IN_A_TURN_S = 3.0, 0.5
# A pod that a roll-out starts before it ends the one that this pod replaces waits so long for that one's state.
MAY_ADOPT_S = 1800.0

log = structlog.get_logger(__name__)


class Judge:
    """Callable: ``judge(observation, now)`` gives the notices first, then the observation and what was found in it.

    fleet: what all pods have sent about these subjects and how the others judge them, read from the store once for each
    round; None where it gave no answer in time
    bases: which are to be judged; none of them is before ``gained``, nor after ``lost``: its records are left
    files_fresh_s: how long a replay of files of this pod is said beside what its engine serves
    golden_max_age_s: a golden record that is older is reported once, as that
    policy: how the team rolls back, which a page says
    pods: how many share the budget of false pages, as it was last known; saved, because the store may be away
    ``save`` is the caller's to call, once the sinks have the findings: a notice that is sent twice is harmless (same
    key), one that was saved as sent and then lost is a page that nobody ever gets.
    """

    def __init__(
        self,
        monitor: Monitor,
        cluster: str,
        file: StateFile,
        fleet: AskFleet,
        bases: JudgedBases = EVERYTHING,
        files_fresh_s: float = LEAST_FRESH_S,
        golden_max_age_s: float = math.inf,
        policy: Policy = DEFAULT,
    ) -> None:
        self._state = JudgedState(monitor)
        self._cluster, self._file, self._ask_fleet = cluster, file, fleet
        self._bases, self._files_fresh_s, self._golden_max_age_s = bases, files_fresh_s, golden_max_age_s
        self._policy = policy
        self._files: dict[str, FilesReplay] = {}
        self._files_elsewhere: dict[str, FilesReplay] = {}
        self._measured_against: dict[str, str] = {}  # adapter -> ``GoldenAccepted.offline`` of the record in force
        self._accepted_at: dict[str, float] = {}  # when the golden records in force were
        self._sees: dict[str, tuple[str, str]] = {}  # adapter -> its base, and the smallest loss that would page
        self._clocks: Sequence[AdapterClock] = ()
        self._owned: set[str] = set()
        self._waits: dict[str, Wait] = {}
        self._reasons: dict[str, str] = {}  # given when the golden records in force were accepted
        self._accepted_why: dict[str, str] = {}
        self._own_past_due = False
        self.pods = 1
        self._judged_by_gone: Mapping[PartitionAdapter, int] = {}
        self._restore()

    def __call__(self, observation: Observation, now: float) -> list[Finding]:
        match observation:
            case BaseRound(base=base) | ScoredResponses(base=base):
                return self._of_base(base, observation, now)
            case FaultReplay(round=BaseRound(base=base)) | FilesRound(round=BaseRound(base=base)):
                return self._of_base(base, observation, now)
            case TrafficBatch(topic_recreated=True):
                partition = observation.topic, observation.partition
                self._state.judged = _without(partition, self.judged)
                self._judged_by_gone = _without(partition, self._judged_by_gone)
            case PassportClocks(clocks=clocks):
                self._clocks = clocks
            case GoldenAccepted(base=base) if not self._is_anothers(base):
                self._accept(observation)
        return [observation]

    @property
    def judged(self) -> Mapping[PartitionAdapter, int]:
        """By topic, partition and adapter the offset after the last record in the evidence; saved in the same file as
        that evidence, so that records that are read again after a crash are recognised."""
        return self._state.judged

    @property
    def watched(self) -> tuple[str, ...]:
        """State keys of what is judged here."""
        owned = [base for base in self._bases.adapters if base in self._owned]
        return tuple(state_key(*own) for base in owned for own in subjects_of(base, self._bases.adapters[base]))

    def gained(self, bases: Collection[str], now: float, at_start: bool = False) -> None:
        """These bases are this pod's to judge. It goes on from the newest state of each that another pod closed, or
        left when it ended, and from its own where there is none, or none yet (``adopt``).

        at_start: nothing was sampled yet, and the answer may take longer
        Guarantee: docs/mathematics.md#evidence-of-a-pod-that-is-gone
        """
        for base in self._known(bases):
            self._owned.add(base)
            is_known = self._state.knows(base, self._bases.adapters[base])
            if self._bases.shared or not is_known:
                moved_at = self._state.judged_at.get(base, 0.0) if is_known else -math.inf
                self._waits[base] = Wait(now, moved_at, self._open_subjects(base))
        self._adopt(AT_START_S if at_start else IN_A_TURN_S)
        if at_start:  # what is sampled from now on begins beyond these offsets
            self._judged_by_gone = {}

    def lost(self, bases: Collection[str], now: float) -> tuple[SavedState, ...]:
        """Another pod judges these bases from now on. What it goes on from, to be stored before it is told so; here
        everything about them is forgotten, and what still comes of them is left."""
        lost = [base for base in self._known(bases) if base in self._owned]
        if self._waits.keys() & set(lost):
            self.adopt(now)  # else what came of them here, which is newer, would hide what was there before
        closed = self._saved(lost, now, closed=True)
        for base in lost:
            adapters = self._bases.adapters[base]
            self._state.take(base, adapters, self._state.blank())
            own = {*adapters, base}
            self._judged_by_gone = {key: upto for key, upto in self._judged_by_gone.items() if key[2] not in own}
            self._own_past_due = True
            for adapter in adapters:
                self._files.pop(adapter, None)
                self._files_elsewhere.pop(adapter, None)
                self._reasons.pop(adapter, None)
                self._accepted_why.pop(adapter, None)
                self._accepted_at.pop(adapter, None)
                self._sees.pop(adapter, None)
            self._owned.discard(base)
            self._waits.pop(base, None)
        return closed

    def adopt(self, now: float) -> None:
        """Go on from the states of pods that are gone by now, of bases that still wait for one.

        What was judged here of such a base meanwhile is forgotten for it, unless it has opened an incident; so are
        responses that the other pod has judged.
        """
        for base, wait in tuple(self._waits.items()):
            if now - wait.since >= MAY_ADOPT_S or self._open_subjects(base) - wait.open:
                del self._waits[base]
        self._adopt(IN_A_TURN_S)

    def overdue(self, missed: Mapping[str, int], why: str, now: float) -> list[Finding]:
        """What is said where no round was judged: of each base, and of its adapters, that nobody can tell.

        missed: base -> how many intervals long; why: in words
        """
        verdicts = [
            not_judged(subject, base, missed[base], why, now)
            for base in self._known(missed)
            for subject in replayed(base, self._bases.adapters[base])
        ]
        return self._unjudged(verdicts, now)

    def unwatched(self, bases: Mapping[str, Sequence[str]], now: float) -> list[Finding]:
        """The same of bases that are left to others, of which nobody judges them. bases: base -> its adapters"""
        return self._unjudged(
            [
                judged_by_nobody(subject, base, now)
                for base, adapters in bases.items()
                for subject in replayed(base, adapters)
            ],
            now,
        )

    def _unjudged(self, verdicts: Sequence[Verdict], now: float) -> list[Finding]:
        """Of each base by itself, as its rounds would be."""
        findings: list[Finding] = []
        for base in dict.fromkeys(verdict.base for verdict in verdicts):
            own = [verdict for verdict in verdicts if verdict.base == base]
            findings += [*self._notices(own, now, self._fleet(own)), *own]
        return findings

    def share_budget(self, pods: int, monitor: Monitor) -> None:
        """From now on so many pods share the budget of false pages: the same evidence and the same incidents, against
        the threshold of ``monitor``."""
        if pods != self.pods:
            log.info("budget_shared", pods=pods, before=self.pods, log_threshold=monitor.log_threshold)
        monitor.replaces(self._monitor)
        self._state.monitor, self.pods = monitor, pods

    @property
    def _monitor(self) -> Monitor:
        return self._state.monitor

    @property
    def log_threshold(self) -> float:
        """ln A in force, nats."""
        return self._monitor.log_threshold

    def save(self, closing: bool = False) -> None:
        """Write the state; a full disk is told by the file's status and costs what a restart would have remembered,
        never a page. closing: with what only informs, which else is written when it is due"""
        own_past = None
        if closing or self._own_past_due or self._file.own_past_due:
            own_past = {"goldens": self._state.goldens, **self._monitor.own_past_json()}
        self._file.save(self._json_of(self._state), own_past)
        self._own_past_due = False

    @property
    def is_saved(self) -> bool:
        """Is the state on disk as it was last saved, or refused by it?"""
        return self._file.is_saved

    def saved_states(self, now: float, closed: bool = False) -> tuple[SavedState, ...]:
        """The state of each base that is judged here, for a pod that may go on from it; none of one that nothing was
        judged of, nor, before the end, of one that waits for another pod's."""
        return self._saved([base for base in self._owned if closed or base not in self._waits], now, closed)

    def _saved(self, bases: Collection[str], now: float, closed: bool) -> tuple[SavedState, ...]:
        return tuple(
            SavedState(now, VERSION, base, tuple(part.alerts), orjson.dumps(self._json_of(part)), closed)
            for base in sorted(bases)
            if (part := self._state.part(base, self._bases.adapters[base])).alerts
        )

    def _json_of(self, state: JudgedState) -> dict[str, Any]:
        return {**state.to_json(), "pods": self.pods}

    def _known(self, bases: Collection[str]) -> list[str]:
        return [base for base in self._bases.adapters if base in bases]

    def _is_anothers(self, base: str) -> bool:
        return base in self._bases.adapters and base not in self._owned

    def _of_base(
        self, base: str, observation: BaseRound | ScoredResponses | FaultReplay | FilesRound, now: float
    ) -> list[Finding]:
        """Nothing of a base that another pod judges: it was on its way when the base was handed over."""
        if self._is_anothers(base):
            return []
        match observation:
            case BaseRound():
                self._state.judged_at[base] = now
                return self._round(observation, now)
            case ScoredResponses():
                self._state.judged_at[base] = now
                return self._responses(observation, now)
            case FaultReplay():
                return self._renamed(observation, now)
            case FilesRound():
                return [*self._noted(self._monitor.observe(observation).files)]

    def _responses(self, responses: ScoredResponses, now: float) -> list[Finding]:
        if self._may_be_judged_twice(responses):
            return []
        drift: list[Finding] = []
        for embedding in responses.embeddings:
            drift += [embedding, *self._monitor.observe(embedding).evidence]
        further = {key: max(upto, self.judged.get(key, 0)) for key, upto in responses.upto.items()}
        self._state.judged = {**self.judged, **further}
        return [*(self._round(responses.round, now) if responses.round else ()), *drift]

    def _may_be_judged_twice(self, responses: ScoredResponses) -> bool:
        """Do they begin before the end of what the pod has judged that this one went on from? They were sampled before
        this one knew; those of one stretch come in the order of their offsets."""
        behind = [key for key in responses.upto if key in self._judged_by_gone]
        ended = {key for key in behind if responses.upto[key] >= self._judged_by_gone[key]}
        self._judged_by_gone = {key: upto for key, upto in self._judged_by_gone.items() if key not in ended}
        return bool(behind)

    def _round(self, round: BaseRound | TrafficRound, now: float) -> list[Finding]:
        judged = self._monitor.observe(round)
        fleet = self._fleet(judged.verdicts)
        files, verdicts = self._noted(judged.files), self._with_files(judged.verdicts, now, fleet)
        ended = self._end_replaced(verdicts, now, fleet)
        notices = self._notices(verdicts, now, fleet)
        return [*ended, *notices, round, *files, *judged.evidence, *verdicts, *judged.calibrations]

    def _renamed(self, replay: FaultReplay, now: float) -> list[Finding]:
        """The round was handed on when it was judged: what is new is the cause."""
        verdicts = self._monitor.observe(replay).verdicts
        fleet = self._fleet(verdicts)
        verdicts = self._with_files(verdicts, now, fleet)
        return [*self._notices(verdicts, now, fleet), *verdicts]

    def _noted(self, files: tuple[FilesReplay, ...]) -> tuple[FilesReplay, ...]:
        """Remembered, to be said beside what the engine serves."""
        self._files |= {replay.adapter: replay for replay in files}
        return files

    def _with_files(self, verdicts: Sequence[Verdict], now: float, fleet: Fleet | None) -> tuple[Verdict, ...]:
        """With what is known of the files: by this pod, whose files the engine reads, else by another one. Where the
        store gives no answer, its last one counts as long as it is fresh; after that the sentence is left out."""
        if fleet is not None:
            self._files_elsewhere |= fleet.files
        last = [self._fresh(of, now) for of in (self._files_elsewhere, self._files)]
        return tuple(with_files(verdict, {**last[0], **last[1]}) for verdict in verdicts)

    def _fresh(self, files: Mapping[str, FilesReplay], now: float) -> dict[str, FilesReplay]:
        """Of these the ones that were lately compared with the golden record in force, or with the one made in process
        that this one's engine was measured against."""
        accepted = {
            name: {golden, self._measured_against.get(name) or golden} for name, golden in self._state.goldens.items()
        }
        is_fresh = {name: now - replay.at <= self._files_fresh_s for name, replay in files.items()}
        return {name: own for name, own in files.items() if is_fresh[name] and own.golden in accepted.get(name, ())}

    def _fleet(self, verdicts: Sequence[Verdict]) -> Fleet | None:
        subjects = {(verdict.subject_kind, verdict.subject) for verdict in verdicts}
        bases = {(SubjectKind.BASE, verdict.base) for verdict in verdicts}
        return self._ask_fleet(sorted(subjects | bases)) if verdicts else None

    def _notices(self, verdicts: Sequence[Verdict], now: float, fleet: Fleet | None) -> tuple[Notice, ...]:
        old = self._old_goldens(now)
        running_out = self._running_out()
        self._state.alerts, notices = step_round(
            self._state.alerts, verdicts, now, self._cluster, fleet, old, running_out
        )
        return tuple(map(self._with_roll_back, map(self._with_smallest_loss, notices)))

    def _with_roll_back(self, notice: Notice) -> Notice:
        if notice.kind is not NoticeKind.TRIGGER:
            return notice
        return replace(notice, details=with_roll_back(notice.details, self._policy.roll_back(notice.verdict)))

    def _with_smallest_loss(self, notice: Notice) -> Notice:
        """Where it says that all is well, how small a loss would be noticed: of a base, by each of its adapters."""
        verdict = notice.verdict
        if verdict.status is not Status.HEALTHY:
            return notice
        if verdict.subject_kind is SubjectKind.ADAPTER:
            _, words = self._sees.get(verdict.subject, ("", ""))
        else:
            of_base = sorted((name, loss) for name, (base, loss) in self._sees.items() if base == verdict.base)
            words = "; ".join(f"{name} {loss}" for name, loss in of_base)
        return replace(notice, details={**notice.details, "pages for a loss of": words}) if words else notice

    def _old_goldens(self, now: float) -> OldGoldens:
        """Of the records that are in force here; without one it is another question whether it is old."""
        return {
            adapter: (self._state.goldens[adapter], day_of(at))
            for adapter, at in self._accepted_at.items()
            if now - at > self._golden_max_age_s and adapter in self._state.goldens
        }

    def _running_out(self) -> RunningOut:
        """The warnings that are in force."""
        warned: dict[str, list[tuple[str, str]]] = {}
        for clock in self._clocks:
            if clock.stage:
                warned.setdefault(clock.adapter, []).append((clock.name, clock.words))
        return warned

    def _accept(self, accepted: GoldenAccepted) -> None:
        """Another record than before: evidence starts again, and the adapter's next verdict ends an open incident."""
        self._reasons[accepted.adapter] = accepted.why
        self._accepted_at[accepted.adapter] = accepted.accepted_at
        self._measured_against[accepted.adapter] = accepted.offline
        words = smallest_loss_words(accepted.smallest_loss, accepted.draws)
        self._sees[accepted.adapter] = accepted.base, words
        self._in_force(accepted.adapter, accepted.golden)

    def _in_force(self, adapter: str, golden: str) -> None:
        before = self._state.goldens.get(adapter)
        self._state.goldens[adapter] = golden
        self._own_past_due |= before != golden
        if before not in (None, golden):
            self._monitor.accept_new_golden(adapter)
            self._accepted_why[adapter] = self._reasons[adapter]

    def _end_replaced(self, verdicts: Collection[Verdict], now: float, fleet: Fleet | None) -> list[Notice]:
        """Notices that end incidents, with the reason given at enrolment, where a golden record was replaced."""
        ended: list[Notice] = []
        for verdict in verdicts:
            why = self._accepted_why.pop(verdict.subject, None) if verdict.subject_kind is SubjectKind.ADAPTER else None
            if why is not None:
                key = state_key(SubjectKind.ADAPTER, verdict.subject)
                before = self._state.alerts.get(key, AlertState())
                state, notices = reenrolled(before, verdict, why, now, self._cluster, fleet)
                self._state.alerts = {**self._state.alerts, key: state}
                ended += map(self._with_smallest_loss, notices)
        return ended

    def _restore(self) -> None:
        """From the file of this pod."""
        stored = self._file.load()
        if not stored:
            return
        try:
            state, pods = JudgedState.from_json(stored, self._monitor.blank()), int(stored.get("pods", 1))
        except Exception as error:  # whatever another program's state, in a file of a version that we read, leads to
            self._file.set_aside(f"it cannot be read as a state of this version ({type(error).__name__})")
            return
        self._state, self.pods = state, pods
        own_past = self._file.load_own_past()
        # Files of earlier versions have it within; and it is about the golden records with which it was written.
        if "drift" not in stored["monitor"] and own_past.get("goldens") == state.goldens:
            self._monitor.restore_own_past(own_past)

    def _adopt(self, wait_s: float) -> None:
        wanted = {base: wait.later_than for base, wait in self._waits.items()}
        for gone in self._bases.gone(wanted, wait_s) if wanted else ():
            if self._go_on_from(gone):
                del self._waits[gone.base]

    def _open_subjects(self, base: str) -> frozenset[Subject]:
        return self._monitor.open_subjects.intersection(subjects_of(base, self._bases.adapters[base]))

    def _go_on_from(self, gone: GoneState) -> bool:
        """False while nobody knows which of its incidents have ended, when the claim holds until the next query."""
        adapters, own = self._bases.adapters[gone.base], self._state
        try:
            state = JudgedState.from_json(gone.state, self._monitor.blank()).part(gone.base, adapters)
            pods, reported = int(gone.state.get("pods", 1)), _reported(state.alerts)
            fleet = self._ask_fleet(list(reported)) if reported else ALONE
        except Exception as error:  # as with a file
            log.warning("state_not_adopted", pod=gone.pod, base=gone.base, why=f"it cannot be read ({_kind(error)})")
            return True
        if fleet is None:
            return False
        goldens = {adapter: own.goldens[adapter] for adapter in adapters if adapter in self._reasons}
        further = {key: upto for key, upto in state.judged.items() if own.judged.get(key, 0) < upto}
        state.alerts = {key: alert.adopted(gone.pod) for key, alert in state.alerts.items()}
        state.judged = {**own.part(gone.base, adapters).judged, **further}
        own.take(gone.base, adapters, state)
        self._judged_by_gone = {**self._judged_by_gone, **further}
        self.pods = pods if self.pods == 1 else self.pods  # until it is known here
        self._end_elsewhere(fleet, reported, gone.base)
        for adapter, golden in goldens.items():
            self._in_force(adapter, golden)
        log.info("state_adopted", pod=gone.pod, base=gone.base, saved_at=gone.at)
        return True

    def _end_elsewhere(self, fleet: Fleet, reported: Mapping[Subject, float], base: str) -> None:
        """An incident that the fleet has ended since the state was saved is no incident here, and its evidence is
        spent. With that of a base end those of which it spoke: they were not reported by themselves."""
        ended = {subject: at for subject, at in reported.items() if _ended_at(fleet, self._cluster, subject) > at}
        speaks = any(kind is SubjectKind.BASE for kind, _ in ended)
        covered = self._open_subjects(base) - set(reported) if speaks else ()
        for subject in (*ended, *covered):
            self._monitor.end_elsewhere(subject)
        for subject in ended:
            key = state_key(*subject)
            incident = Reported(at=_ended_at(fleet, self._cluster, subject))
            after = replace(self._state.alerts[key], incident=incident, cause=Cause.NONE.value, cause_refined=False)
            self._state.alerts = {**self._state.alerts, key: after}


def _reported(alerts: States) -> dict[Subject, float]:
    """The subjects whose incident was open, and when it was last reported so."""
    split = {key: key.partition("/") for key in alerts}
    incidents = {(SubjectKind(split[key][0]), split[key][2]): own.incident for key, own in alerts.items()}
    return {subject: own.at for subject, own in incidents.items() if own.is_open}


def _kind(error: Exception) -> str:
    return type(error).__name__


def _ended_at(fleet: Fleet, cluster: str, subject: Subject) -> float:
    """When its incident was ended by whichever pod; 0.0 where it is open, and where nothing was sent about it."""
    sent = fleet.incidents.get((dedup_key(cluster, *subject), False), SentIncident())
    return 0.0 if sent.opened_at else sent.ended_at


def _without(partition: tuple[str, int], ends: Mapping[PartitionAdapter, int]) -> dict[PartitionAdapter, int]:
    return {key: upto for key, upto in ends.items() if key[:2] != partition}
