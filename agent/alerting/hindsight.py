"""What today's code says of stored rounds, beside what was said then. Pure: nothing is told and nothing is kept.

Evidence begins at 0 with the first round that is handed in. What embeddings say is left out: they are stored, but not
in the order in which they were heard, so a verdict that rested on them is named and not compared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any

from agent.store.from_rows import seconds
from agent.store.stored_rounds import Stored
from agent.store.table_rows import Row
from agent.store.verdict_rows import verdict_row
from detectors.monitor import Judged, Monitor
from detectors.records import BaseRound, Reason
from detectors.traffic_records import TrafficRound

# Beyond so many nats two levels of evidence differ; the order of a sum moves them by 1e-12.
SAME_NATS = 1e-9
BY_EMBEDDINGS = (Reason.INPUT_DRIFT.value, Reason.OUTPUT_DRIFT.value)
SAID = ("status", "reason", "cause", "covered_by")
Subject = tuple[str, str, str, float]
"""(pod, subject kind, subject, seconds since the epoch)"""


@dataclass(frozen=True, slots=True)
class Beside:
    """One verdict of then and of now. then, now: of ``SAID`` and log_e; None where there is none

    why_not: why the two cannot be compared, in words; "" where they can
    """

    pod: str
    kind: str
    subject: str
    base: str
    round: int
    at: float
    then: Row | None
    now: Row | None
    why_not: str = ""

    @property
    def differs(self) -> bool:
        """In what was said; evidence has a figure of its own."""
        if self.why_not:
            return False
        return self.then is None or self.now is None or any(self.then[name] != self.now[name] for name in SAID)

    @property
    def apart(self) -> float:
        """Nats between the two levels of evidence, 0 where one is missing."""
        if self.why_not or self.then is None or self.now is None:
            return 0.0
        return abs(float(self.then["log_e"]) - float(self.now["log_e"]))


@dataclass(slots=True)
class Pod:
    """The monitor of one agent's pod, and which golden record each adapter was compared with last.

    goldens: adapter -> hash of the record; files: adapter -> hash of the accepted files
    """

    monitor: Monitor
    goldens: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    def observe(self, record: BaseRound | TrafficRound) -> Judged:
        """An adapter that is compared with another record than before was accepted anew: its evidence starts again."""
        for adapter, golden, files in _accepted(record):
            news = [(self.goldens, golden), (self.files, files)]
            if any(seen and known.get(adapter, seen) != seen for known, seen in news):
                self.monitor.accept_new_golden(adapter)
            for known, seen in news:
                if seen:
                    known[adapter] = seen
        return self.monitor.observe(record)


def judged_again(stored: Iterable[Stored], monitor: Callable[[], Monitor]) -> Iterator[tuple[Stored, Judged | None]]:
    """Each round, without its record, which is large, and what a monitor of its pod says of it; None where the record
    is not all there."""
    pods: dict[str, Pod] = {}
    for one in stored:
        if one.pod not in pods:
            pods[one.pod] = Pod(monitor())
        judged = None if one.record is None else pods[one.pod].observe(one.record)
        yield replace(one, record=None), judged


def beside(again: Iterable[tuple[Stored, Judged | None]], then: Sequence[Row], since: float) -> list[Beside]:
    """Verdicts of then and now, by pod and time, from ``since`` on. then: rows of verdicts"""
    now: dict[Subject, list[Row]] = defaultdict(list)
    lost: dict[tuple[str, str, float], str] = {}
    for one, judged in again:
        if judged is None:
            lost[one.pod, one.base, one.at] = one.why
            continue
        for verdict in judged.verdicts:
            row = verdict_row(verdict)
            now[one.pod, row["subject_kind"], row["subject"], seconds(row["at"])].append(row)
    before: dict[Subject, list[Row]] = defaultdict(list)
    for row in then:
        before[row["pod"], row["subject_kind"], row["subject"], seconds(row["at"])].append(row)
    keys = sorted({*now, *before}, key=lambda key: (key[0], key[3], key[1], key[2]))
    return [
        _beside(key, *pair, lost)
        for key in keys
        if key[3] >= since
        # Canaries and responses of one moment may both have a verdict; the store does not keep which came first.
        for pair in zip_longest(sorted(before[key], key=_order), sorted(now[key], key=_order))
    ]


def alarms(found: Iterable[Beside], side: str) -> list[Beside]:
    """side: then or now"""
    told = ((one, getattr(one, side)) for one in found)
    return [one for one, row in told if row is not None and row["reason"] == Reason.ALARM.value]


def _beside(key: Subject, then: Row | None, now: Row | None, lost: Mapping[tuple[str, str, float], str]) -> Beside:
    pod, kind, subject, at = key
    row: Any = then or now
    why = ""
    if now is None and (pod, row["base"], at) in lost:
        why = lost[pod, row["base"], at]
    elif then is not None and then["reason"] in BY_EMBEDDINGS:
        why = "it rested on embeddings, which are not judged again"
    return Beside(pod, kind, subject, row["base"], row["round"], at, then, now, why)


def _order(row: Row) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in SAID)


def _accepted(record: BaseRound | TrafficRound) -> list[tuple[str, str, str]]:
    """(adapter, hash of its golden record, hash of its accepted files), "" where the round does not tell."""
    if isinstance(record, TrafficRound):
        return [(name, "", identity.golden_adapter) for name, identity in record.identities.items()]
    return [
        (one.adapter, next((m.comparison.reference.golden for m in one.measurements), ""), one.identity.golden_adapter)
        for one in record.members
    ]
