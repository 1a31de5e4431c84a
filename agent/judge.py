"""Observe, decide, needs notice, in a row: a record in, findings out. What changes here is saved and restored whole."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import structlog

from agent.alerts import AlertState, States, reenrolled, state_key, step_round
from agent.records import Finding, GoldenAccepted, Notice, Observation
from agent.state import StateFile
from detectors.monitor import Monitor
from detectors.records import BaseRound, Embedding, Reason, SubjectKind, Verdict

log = structlog.get_logger(__name__)

Elsewhere = Callable[[Collection[str]], Collection[str]]


class Judge:
    """Callable: ``judge(observation, now)`` gives the observation itself, then what follows from it, in order.

    elsewhere: of these open subjects, those that another live pod's latest verdict calls degraded; asked only when an
    incident could end, because it reads the store
    """

    def __init__(self, monitor: Monitor, cluster: str, file: StateFile, elsewhere: Elsewhere) -> None:
        self._monitor, self._cluster, self._file, self._elsewhere = monitor, cluster, file, elsewhere
        self._alerts: States = {}
        self._goldens: dict[str, str] = {}
        self._latest: dict[str, Verdict] = {}
        self._alarmed: frozenset[str] = frozenset()
        self._restore()

    def __call__(self, seen: Observation, now: float) -> list[Finding]:
        if isinstance(seen, BaseRound):
            return [seen, *self._round(seen, now)]
        if isinstance(seen, Embedding):
            return [seen, *self._monitor.observe(seen).evidence]
        if isinstance(seen, GoldenAccepted):
            return [seen, *self._accepted(seen, now)]
        return [seen]

    def newly_degraded(self, _seen: BaseRound) -> frozenset[str]:
        """Adapters that the last round turned degraded, by themselves or with their base."""
        return self._alarmed

    def save(self) -> None:
        """Write the state; a disk that is full is said and costs a restart's memory, never a page."""
        alerts = {key: state.to_json() for key, state in self._alerts.items()}
        state = {"monitor": self._monitor.state_json(), "alerts": alerts, "goldens": self._goldens}
        try:
            self._file.save(state)
        except OSError as error:
            log.error("state_not_saved", why=str(error))

    def _round(self, seen: BaseRound, now: float) -> list[Finding]:
        judged = self._monitor.observe(seen)
        self._latest.update({v.subject: v for v in judged.verdicts if v.subject_kind is SubjectKind.ADAPTER})
        self._alarmed = _alarmed(judged.verdicts)
        elsewhere = self._elsewhere(self._open()) if self._may_end(judged.verdicts) else ()
        self._alerts, notices = step_round(self._alerts, judged.verdicts, now, self._cluster, elsewhere)
        self.save()
        return [*judged.evidence, *judged.verdicts, *notices]

    def _accepted(self, seen: GoldenAccepted, now: float) -> tuple[Notice, ...]:
        """Another record than before: evidence starts again, and an open incident ends with the reason given."""
        before = self._goldens.get(seen.adapter, seen.golden)
        self._goldens[seen.adapter] = seen.golden
        latest = self._latest.get(seen.adapter)
        if before == seen.golden:
            return ()
        self._monitor.accept_new_golden(seen.adapter)
        if latest is None:
            return ()
        key = state_key(SubjectKind.ADAPTER, seen.adapter)
        state, notices = reenrolled(self._alerts.get(key, AlertState()), latest, seen.why, now, self._cluster)
        self._alerts = {**self._alerts, key: state}
        return notices

    def _open(self) -> list[str]:
        return [key for key, state in self._alerts.items() if state.opened_as]

    def _may_end(self, verdicts: Collection[Verdict]) -> bool:
        return bool(self._open()) and any(v.status == "healthy" for v in verdicts)

    def _restore(self) -> None:
        state: dict[str, Any] = self._file.load()
        if not state:
            return
        self._monitor.restore(state["monitor"])
        self._alerts = {key: AlertState.from_json(seen) for key, seen in state["alerts"].items()}
        self._goldens = dict(state["goldens"])


def _alarmed(verdicts: Collection[Verdict]) -> frozenset[str]:
    """Whose worst canaries are worth reading now: an adapter that alarmed, or all that its base's alarm names."""
    names: set[str] = set()
    for verdict in verdicts:
        if verdict.reason is Reason.ALARM:
            names.update(verdict.members if verdict.subject_kind is SubjectKind.BASE else (verdict.subject,))
    return frozenset(names)
