"""All that a judge goes on from after a restart, and by which another pod goes on from it: as a whole, and by base."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from agent.alerting.alert_state import AlertState, States
from agent.alerting.notice import state_key
from agent.records import PartitionAdapter
from detectors.monitor import Monitor
from detectors.records import Subject, SubjectKind
from detectors.verdicts.exchange import exchanged


def subjects_of(base: str, adapters: Sequence[str]) -> list[Subject]:
    """What is judged of one base: itself, what answers requests that name it, and its adapters."""
    own = [(SubjectKind.BASE, base), (SubjectKind.BASE_REQUESTS, base)]
    return [*own, *((SubjectKind.ADAPTER, name) for name in adapters)]


def replayed(base: str, adapters: Sequence[str]) -> list[Subject]:
    """Of these, what rounds of canaries are about. Nobody has to ask for a base: that nothing is known of requests
    which name it says nothing, and no later round would take it back."""
    return [subject for subject in subjects_of(base, adapters) if subject[0] is not SubjectKind.BASE_REQUESTS]


@dataclass(slots=True)
class JudgedState:
    """monitor: evidence and incidents; alerts: state key -> what was last reported

    goldens: adapter -> the record in force
    judged: by topic, partition and adapter the offset after the last record in the evidence
    judged_at: base -> when a record of it was last judged, seconds; files of earlier versions do not say it
    """

    monitor: Monitor
    alerts: States = field(default_factory=dict)
    goldens: dict[str, str] = field(default_factory=dict)
    judged: Mapping[PartitionAdapter, int] = field(default_factory=dict)
    judged_at: dict[str, float] = field(default_factory=dict)

    def blank(self) -> JudgedState:
        """Of a judge by the same rules that has judged nothing."""
        return JudgedState(self.monitor.blank())

    def part(self, base: str, adapters: Sequence[str]) -> JudgedState:
        """What is about this base and its adapters."""
        part = self.blank()
        part.take(base, adapters, self)
        return part

    def take(self, base: str, adapters: Sequence[str], source: JudgedState) -> None:
        """What ``source`` has about this base is all that is known of it from now on. See Monitor.take."""
        subjects = subjects_of(base, adapters)
        self.monitor.take(subjects, source.monitor)
        keys = [state_key(*subject) for subject in subjects]
        self.alerts = exchanged(self.alerts, source.alerts, keys)
        self.goldens = exchanged(self.goldens, source.goldens, adapters)
        self.judged_at = exchanged(self.judged_at, source.judged_at, [base])
        # Of requests that name the base too, unless an adapter, which may be of another base, has that name.
        is_adapter = base in self.goldens or base in source.goldens
        names = adapters if is_adapter else (*adapters, base)
        keys_of_offsets = of_adapters((*self.judged, *source.judged), names)
        self.judged = exchanged(self.judged, source.judged, keys_of_offsets)

    def knows(self, base: str, adapters: Sequence[str]) -> bool:
        """Was anything of this base judged?"""
        return any(state_key(*subject) in self.alerts for subject in subjects_of(base, adapters))

    def to_json(self) -> dict[str, Any]:
        return {
            "monitor": self.monitor.state_json(),
            "alerts": {key: state.to_json() for key, state in self.alerts.items()},
            "goldens": self.goldens,
            "judged": [[*key, upto] for key, upto in self.judged.items()],
            "judged_at": self.judged_at,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any], blank: Monitor) -> Self:
        """blank: a monitor that has observed nothing. Raises whatever an unreadable state leads to."""
        state = cls(
            blank,
            {key: AlertState.from_json(row) for key, row in stored["alerts"].items()},
            dict(stored["goldens"]),
            {(topic, partition, name): upto for topic, partition, name, upto in stored.get("judged", ())},
            dict(stored.get("judged_at", {})),
        )
        blank.restore(stored["monitor"])
        return state


def of_adapters(keys: Collection[PartitionAdapter], adapters: Sequence[str]) -> set[PartitionAdapter]:
    """adapters: names that requests ask for, the base's own among them"""
    return {key for key in keys if key[2] in adapters}
