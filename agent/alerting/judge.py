"""Observe, decide, needs notice, in a row: a record in, findings out. What changes here is saved and restored whole."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import structlog

from agent.alerting.checkpoint import StateFile
from agent.alerting.incidents import AlertState, States, reenrolled, state_key, step_round
from agent.records import Finding, GoldenAccepted, Notice, Observation, PartitionAdapter, ScoredResponses, TrafficBatch
from detectors.monitor import Monitor
from detectors.records import BaseRound, SubjectKind, Verdict
from detectors.traffic_records import TrafficRound

log = structlog.get_logger(__name__)

Elsewhere = Callable[[Collection[str]], Collection[str]]


class Judge:
    """Callable: ``judge(observation, now)`` gives what is to be told first, then the observation and the rest.

    elsewhere: of these open subjects, those that another live pod's latest verdict calls degraded; asked only while
    an incident is open, because it reads the store
    judged: of each stretch of the topic, the offset after the last record in the evidence; saved in the same file as
    that evidence, so that what is read again after a crash is known again
    ``save`` is the caller's to call, once the findings lie with the sinks: told twice is harmless (same key), saved as
    told and then lost is a page that nobody ever gets.
    """

    def __init__(self, monitor: Monitor, cluster: str, file: StateFile, elsewhere: Elsewhere) -> None:
        self._monitor, self._cluster, self._file, self._elsewhere = monitor, cluster, file, elsewhere
        self._alerts: States = {}
        self._goldens: dict[str, str] = {}
        self._accepted_why: dict[str, str] = {}
        self.judged: Mapping[PartitionAdapter, int] = {}
        self._restore()

    def __call__(self, seen: Observation, now: float) -> list[Finding]:
        if isinstance(seen, BaseRound):
            return self._round(seen, now)
        if isinstance(seen, ScoredResponses):
            return self._hear(seen, now)
        if isinstance(seen, TrafficBatch) and seen.anew:
            place = seen.topic, seen.partition
            self.judged = {key: upto for key, upto in self.judged.items() if key[:2] != place}
        if isinstance(seen, GoldenAccepted):
            self._accept(seen)
        return [seen]

    def save(self) -> None:
        """Write the state; a disk that is full is said and costs a restart's memory, never a page."""
        alerts = {key: state.to_json() for key, state in self._alerts.items()}
        judged = [[*key, upto] for key, upto in self.judged.items()]
        monitor = self._monitor.state_json()
        state = {"monitor": monitor, "alerts": alerts, "goldens": self._goldens, "judged": judged}
        try:
            self._file.save(state)
        except OSError as error:
            log.error("state_not_saved", why=str(error))

    def _hear(self, seen: ScoredResponses, now: float) -> list[Finding]:
        drift = [found for one in seen.embeddings for found in (one, *self._monitor.observe(one).evidence)]
        self.judged = {**self.judged, **{key: max(upto, self.judged.get(key, 0)) for key, upto in seen.upto.items()}}
        return [*(self._round(seen.round, now) if seen.round else ()), *drift]

    def _round(self, seen: BaseRound | TrafficRound, now: float) -> list[Finding]:
        judged = self._monitor.observe(seen)
        ended = self._end_replaced(judged.verdicts, now)
        is_open = [key for key, state in self._alerts.items() if state.opened_as]
        elsewhere = self._elsewhere(is_open) if is_open else ()
        self._alerts, notices = step_round(self._alerts, judged.verdicts, now, self._cluster, elsewhere)
        return [*ended, *notices, seen, *judged.evidence, *judged.verdicts, *judged.calibrations]

    def _accept(self, seen: GoldenAccepted) -> None:
        """Another record than before: evidence starts again, and the adapter's next verdict ends an open incident."""
        before = self._goldens.get(seen.adapter, seen.golden)
        self._goldens[seen.adapter] = seen.golden
        if before != seen.golden:
            self._monitor.accept_new_golden(seen.adapter)
            self._accepted_why[seen.adapter] = seen.why

    def _end_replaced(self, verdicts: Collection[Verdict], now: float) -> list[Notice]:
        """Resolves, with the reason given at enrolment, of adapters whose golden record was replaced on purpose."""
        ended: list[Notice] = []
        for verdict in verdicts:
            why = self._accepted_why.pop(verdict.subject, None) if verdict.subject_kind is SubjectKind.ADAPTER else None
            if why is not None:
                key = state_key(SubjectKind.ADAPTER, verdict.subject)
                state, told = reenrolled(self._alerts.get(key, AlertState()), verdict, why, now, self._cluster)
                self._alerts = {**self._alerts, key: state}
                ended += told
        return ended

    def _restore(self) -> None:
        state: dict[str, Any] = self._file.load()
        if not state:
            return
        self._monitor.restore(state["monitor"])
        self._alerts = {key: AlertState.from_json(seen) for key, seen in state["alerts"].items()}
        self._goldens = dict(state["goldens"])
        self.judged = {(topic, partition, name): upto for topic, partition, name, upto in state.get("judged", ())}
