"""A record in, findings out: the monitor judges it, and notices are made of what it says.

All that changes while judging is here, and is saved and restored whole: a key that is renamed has to be read under its
former name too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import structlog

from agent.alerting.alert_state import AlertState, States
from agent.alerting.checkpoint import StateFile
from agent.alerting.fleet import Fleet
from agent.alerting.incidents import reenrolled, step_round
from agent.alerting.notice import state_key
from agent.records import Finding, GoldenAccepted, Notice, Observation, PartitionAdapter, ScoredResponses, TrafficBatch
from detectors.monitor import Monitor
from detectors.records import BaseRound, FaultReplay, SubjectKind, Verdict
from detectors.traffic_records import TrafficRound

log = structlog.get_logger(__name__)

AskFleet = Callable[[Collection[tuple[SubjectKind, str]]], Fleet | None]


class Judge:
    """Callable: ``judge(observation, now)`` gives the notices first, then the observation and what was found in it.

    fleet: what all pods have sent about these subjects and how the others judge them, read from the store once for each
    round; None where it gave no answer in time
    judged: by topic, partition and adapter the offset after the last record in the evidence; saved in the same file as
    that evidence, so that records that are read again after a crash are recognised
    pods: how many share the budget of false pages, as it was last known; saved, because the store may be away
    ``save`` is the caller's to call, once the sinks have the findings: a notice that is sent twice is harmless (same
    key), one that was saved as sent and then lost is a page that nobody ever gets.
    """

    def __init__(self, monitor: Monitor, cluster: str, file: StateFile, fleet: AskFleet) -> None:
        self._monitor, self._cluster, self._file, self._ask_fleet = monitor, cluster, file, fleet
        self._alerts: States = {}
        self._goldens: dict[str, str] = {}
        self._accepted_why: dict[str, str] = {}
        self.judged: Mapping[PartitionAdapter, int] = {}
        self.pods = 1
        self._restore()

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
                self.judged = {key: upto for key, upto in self.judged.items() if key[:2] != partition}
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

    def save(self) -> None:
        """Write the state; a full disk is told by the file's status and costs what a restart would have remembered,
        never a page."""
        alerts = {key: state.to_json() for key, state in self._alerts.items()}
        judged = [[*key, upto] for key, upto in self.judged.items()]
        monitor = self._monitor.state_json()
        state: dict[str, Any] = {"monitor": monitor, "alerts": alerts, "goldens": self._goldens, "judged": judged}
        self._file.save({**state, "pods": self.pods})

    def _responses(self, responses: ScoredResponses, now: float) -> list[Finding]:
        drift: list[Finding] = []
        for embedding in responses.embeddings:
            drift += [embedding, *self._monitor.observe(embedding).evidence]
        further = {key: max(upto, self.judged.get(key, 0)) for key, upto in responses.upto.items()}
        self.judged = {**self.judged, **further}
        return [*(self._round(responses.round, now) if responses.round else ()), *drift]

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
        before = self._goldens.get(accepted.adapter, accepted.golden)
        self._goldens[accepted.adapter] = accepted.golden
        if before != accepted.golden:
            self._monitor.accept_new_golden(accepted.adapter)
            self._accepted_why[accepted.adapter] = accepted.why

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

    def _restore(self) -> None:
        state: dict[str, Any] = self._file.load()
        if not state:
            return
        untouched = self._monitor.state_json()
        try:
            alerts = {key: AlertState.from_json(row) for key, row in state["alerts"].items()}
            goldens = dict(state["goldens"])
            judged = {(topic, partition, name): upto for topic, partition, name, upto in state.get("judged", ())}
            pods = int(state.get("pods", 1))
            self._monitor.restore(state["monitor"])
        except Exception as error:  # whatever another program's state, in a file of a version that we read, leads to
            self._file.set_aside(f"it cannot be read as a state of this version ({type(error).__name__})")
            self._monitor.restore(untouched)
            return
        self._alerts, self._goldens, self.judged, self.pods = alerts, goldens, judged, pods
