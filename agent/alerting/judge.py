"""A record in, findings out: the monitor judges it, and notices are made of what it says.

All that changes while judging is here, and is saved and restored whole: a key that is renamed has to be read under its
former name too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson
import structlog

from agent.alerting.alert_state import AlertState, Reported, States
from agent.alerting.checkpoint import VERSION, StateFile
from agent.alerting.fleet import ALONE, Fleet, GoneState, SentIncident
from agent.alerting.incidents import reenrolled, step_round
from agent.alerting.notice import dedup_key, state_key
from agent.records import (
    Finding,
    GoldenAccepted,
    Notice,
    Observation,
    PartitionAdapter,
    SavedState,
    ScoredResponses,
    TrafficBatch,
)
from detectors.monitor import Monitor
from detectors.records import BaseRound, Cause, FaultReplay, Subject, SubjectKind, Verdict
from detectors.traffic_records import TrafficRound

AskFleet = Callable[[Collection[Subject]], Fleet | None]
AskGone = Callable[[float], GoneState | None]

# Seconds that an answer about the state of a pod that is gone may take: before anything is read, and between two turns.
AT_START_S, IN_A_TURN_S = 3.0, 0.5
# A pod that a roll-out starts before it ends the one that this pod replaces waits so long for that one's state.
MAY_ADOPT_S = 1800.0

log = structlog.get_logger(__name__)


class Judge:
    """Callable: ``judge(observation, now)`` gives the notices first, then the observation and what was found in it.

    fleet: what all pods have sent about these subjects and how the others judge them, read from the store once for each
    round; None where it gave no answer in time
    judged: by topic, partition and adapter the offset after the last record in the evidence; saved in the same file as
    that evidence, so that records that are read again after a crash are recognised
    pods: how many share the budget of false pages, as it was last known; saved, because the store may be away
    gone: the state of a pod that is gone, claimed for this one, within so many seconds; None without one. Asked where
    this pod has no saved state of its own, at its start and at ``adopt``
    ``save`` is the caller's to call, once the sinks have the findings: a notice that is sent twice is harmless (same
    key), one that was saved as sent and then lost is a page that nobody ever gets.
    """

    def __init__(
        self, monitor: Monitor, cluster: str, file: StateFile, fleet: AskFleet, gone: AskGone = lambda _: None
    ) -> None:
        self._monitor, self._cluster, self._file, self._ask_fleet = monitor, cluster, file, fleet
        self._ask_gone = gone
        self._alerts: States = {}
        self._goldens: dict[str, str] = {}
        self._reasons: dict[str, str] = {}  # given when the golden records in force were accepted
        self._accepted_why: dict[str, str] = {}
        self._own_past_due = False
        self.judged: Mapping[PartitionAdapter, int] = {}
        self.pods = 1
        self._judged_by_gone: Mapping[PartitionAdapter, int] = {}
        self._may_adopt = not self._restore()
        if self._may_adopt:
            self._go_on_from(self._ask_gone(AT_START_S))

    def __call__(self, observation: Observation, now: float) -> list[Finding]:
        match observation:
            case BaseRound():
                return self._round(observation, now)
            case ScoredResponses():
                return self._responses(observation, now)
            case FaultReplay():
                return self._renamed(observation, now)
            case TrafficBatch(topic_recreated=True):
                partition = observation.topic, observation.partition
                self.judged = _without(partition, self.judged)
                self._judged_by_gone = _without(partition, self._judged_by_gone)
            case GoldenAccepted():
                self._accept(observation)
        return [observation]

    def share_budget(self, pods: int, monitor: Monitor) -> None:
        """From now on so many pods share the budget of false pages: the same evidence and the same incidents, against
        the threshold of ``monitor``."""
        if pods != self.pods:
            log.info("budget_shared", pods=pods, before=self.pods, log_threshold=monitor.log_threshold)
        monitor.replaces(self._monitor)
        self._monitor, self.pods = monitor, pods

    @property
    def log_threshold(self) -> float:
        """ln A in force, nats."""
        return self._monitor.log_threshold

    def save(self, closing: bool = False) -> None:
        """Write the state; a full disk is told by the file's status and costs what a restart would have remembered,
        never a page. closing: with what only informs, which else is written when it is due"""
        own_past = None
        if closing or self._own_past_due or self._file.own_past_due:
            own_past = {"goldens": self._goldens, **self._monitor.own_past_json()}
        self._file.save(self._state_json(), own_past)
        self._own_past_due = False

    def saved_state(self, now: float, closed: bool = False) -> SavedState | None:
        """The state for a pod that may go on from it; None while nothing was judged, and while this one waits for
        that of another."""
        if not self._alerts or (self._may_adopt and not closed):
            return None
        return SavedState(now, VERSION, tuple(self._alerts), orjson.dumps(self._state_json()), closed)

    def adopt(self, waited_s: float) -> None:
        """Go on from the state of a pod that is gone, where there is one and this pod has none of its own.

        What was judged here meanwhile is forgotten for it, unless it has opened an incident; so are responses that the
        other pod has judged. waited_s: since the start. Guarantee: docs/mathematics.md#evidence-of-a-pod-that-is-gone
        """
        self._may_adopt = self._may_adopt and waited_s < MAY_ADOPT_S and not self._monitor.open_subjects
        if not self._may_adopt:
            return
        own, pods = self.judged, self.pods
        if self._go_on_from(self._ask_gone(IN_A_TURN_S)):
            self._judged_by_gone = {key: upto for key, upto in self.judged.items() if own.get(key, 0) < upto}
        self.pods = pods  # whose number is known here by now

    def _state_json(self) -> dict[str, Any]:
        alerts = {key: state.to_json() for key, state in self._alerts.items()}
        judged = [[*key, upto] for key, upto in self.judged.items()]
        monitor = self._monitor.state_json()
        state: dict[str, Any] = {"monitor": monitor, "alerts": alerts, "goldens": self._goldens, "judged": judged}
        return {**state, "pods": self.pods}

    def _responses(self, responses: ScoredResponses, now: float) -> list[Finding]:
        if self._may_be_judged_twice(responses):
            return []
        drift: list[Finding] = []
        for embedding in responses.embeddings:
            drift += [embedding, *self._monitor.observe(embedding).evidence]
        further = {key: max(upto, self.judged.get(key, 0)) for key, upto in responses.upto.items()}
        self.judged = {**self.judged, **further}
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
        ended = self._end_replaced(judged.verdicts, now, fleet)
        notices = self._notices(judged.verdicts, now, fleet)
        return [*ended, *notices, round, *judged.evidence, *judged.verdicts, *judged.calibrations]

    def _renamed(self, replay: FaultReplay, now: float) -> list[Finding]:
        """The round was handed on when it was judged: what is new is the cause."""
        verdicts = self._monitor.observe(replay).verdicts
        return [*self._notices(verdicts, now, self._fleet(verdicts)), *verdicts]

    def _fleet(self, verdicts: Sequence[Verdict]) -> Fleet | None:
        subjects = {(verdict.subject_kind, verdict.subject) for verdict in verdicts}
        bases = {(SubjectKind.BASE, verdict.base) for verdict in verdicts}
        return self._ask_fleet(sorted(subjects | bases)) if verdicts else None

    def _notices(self, verdicts: Sequence[Verdict], now: float, fleet: Fleet | None) -> tuple[Notice, ...]:
        self._alerts, notices = step_round(self._alerts, verdicts, now, self._cluster, fleet)
        return notices

    def _accept(self, accepted: GoldenAccepted) -> None:
        """Another record than before: evidence starts again, and the adapter's next verdict ends an open incident."""
        self._reasons[accepted.adapter] = accepted.why
        self._in_force(accepted.adapter, accepted.golden)

    def _in_force(self, adapter: str, golden: str) -> None:
        before = self._goldens.get(adapter)
        self._goldens[adapter] = golden
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
                before = self._alerts.get(key, AlertState())
                state, notices = reenrolled(before, verdict, why, now, self._cluster, fleet)
                self._alerts = {**self._alerts, key: state}
                ended += notices
        return ended

    def _restore(self) -> bool:
        """From the file of this pod; False where it has none, or nothing was judged by then."""
        state = self._file.load()
        if not state:
            return False
        try:
            self._put(state)
        except Exception as error:  # whatever another program's state, in a file of a version that we read, leads to
            self._file.set_aside(f"it cannot be read as a state of this version ({type(error).__name__})")
            return True
        own_past = self._file.load_own_past()
        # Files of earlier versions have it within; and it is about the golden records with which it was written.
        if "drift" not in state["monitor"] and own_past.get("goldens") == self._goldens:
            self._monitor.restore_own_past(own_past)
        return bool(self._alerts)

    def _put(self, state: Mapping[str, Any]) -> None:
        """Everything, or nothing where it cannot be read: then it raises whatever that leads to."""
        untouched, own_past = self._monitor.state_json(), self._monitor.own_past_json()
        try:
            alerts = {key: AlertState.from_json(row) for key, row in state["alerts"].items()}
            goldens = dict(state["goldens"])
            judged = {(topic, partition, name): upto for topic, partition, name, upto in state.get("judged", ())}
            pods = int(state.get("pods", 1))
            self._monitor.restore(state["monitor"])
        except Exception:
            self._monitor.restore(untouched)
            self._monitor.restore_own_past(own_past)
            raise
        self._alerts, self._goldens, self.judged, self.pods = alerts, goldens, judged, pods

    def _go_on_from(self, gone: GoneState | None) -> bool:
        """False where nothing was adopted: also while nobody knows which of its incidents have ended, when the claim
        holds until the next query."""
        if gone is None:
            return False
        goldens, judged = self._goldens, self.judged
        try:
            reported = _reported(gone)
            fleet = self._ask_fleet(list(reported)) if reported else ALONE
            if fleet is None:
                return False
            self._put(gone.state)
        except Exception as error:  # as with a file
            self._may_adopt = False
            log.warning("state_not_adopted", pod=gone.pod, why=f"it cannot be read ({type(error).__name__})")
            return False
        self._may_adopt = False
        self._alerts = {key: state.adopted(gone.pod) for key, state in self._alerts.items()}
        self.judged = {**self.judged, **{key: max(upto, self.judged.get(key, 0)) for key, upto in judged.items()}}
        self._end_elsewhere(fleet, reported)
        for adapter, golden in goldens.items():
            self._in_force(adapter, golden)
        log.info("state_adopted", pod=gone.pod, saved_at=gone.at)
        return True

    def _end_elsewhere(self, fleet: Fleet, reported: Mapping[Subject, float]) -> None:
        """An incident that the fleet has ended since the state was saved is no incident here, and its evidence is
        spent. With that of a base end those of which it spoke: they were not reported by themselves."""
        ended = {subject: at for subject, at in reported.items() if _ended_at(fleet, self._cluster, subject) > at}
        speaks = any(kind is SubjectKind.BASE for kind, _ in ended)
        covered = self._monitor.open_subjects - set(reported) if speaks else ()
        for subject in (*ended, *covered):
            self._monitor.end_elsewhere(subject)
        for subject in ended:
            key = state_key(*subject)
            incident = Reported(at=_ended_at(fleet, self._cluster, subject))
            after = replace(self._alerts[key], incident=incident, cause=Cause.NONE.value, cause_refined=False)
            self._alerts = {**self._alerts, key: after}


def _reported(gone: GoneState) -> dict[Subject, float]:
    """The subjects whose incident was open, and when it was last reported so."""
    alerts = {key: AlertState.from_json(row).incident for key, row in gone.state["alerts"].items()}
    split = {key: key.partition("/") for key in alerts}
    return {(SubjectKind(split[key][0]), split[key][2]): own.at for key, own in alerts.items() if own.is_open}


def _ended_at(fleet: Fleet, cluster: str, subject: Subject) -> float:
    """When its incident was ended by whichever pod; 0.0 where it is open, and where nothing was sent about it."""
    sent = fleet.incidents.get((dedup_key(cluster, *subject), False), SentIncident())
    return 0.0 if sent.opened_at else sent.ended_at


def _without(partition: tuple[str, int], ends: Mapping[PartitionAdapter, int]) -> dict[PartitionAdapter, int]:
    return {key: upto for key, upto in ends.items() if key[:2] != partition}
