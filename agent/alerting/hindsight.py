"""What today's code says of stored rounds, beside what was said then. Pure: nothing is sent and nothing is saved.

Evidence begins at 0 with the first round that is handed in. Verdicts that rested on embeddings are listed and not
compared: embeddings are stored, but not in the order in which they were judged. Nor are those whose cause rested on
faults that were replayed after the alarm: stored rounds hold what was recorded at enrolment. A round whose verdict was
not stored, because it said what the one before said, is compared with that; its level of evidence is then unknown.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any

from agent.store.from_rows import seconds
from agent.store.stored_rounds import Stored
from agent.store.table_rows import NAN, Row, when
from agent.store.verdict_rows import verdict_row
from agent.store.verdict_runs import LONGEST_S
from detectors.monitor import Judged, Monitor
from detectors.records import BaseRound, Reason
from detectors.traffic_records import TrafficRound

# Beyond so many nats two levels of evidence differ; the order of a sum moves them by 1e-12.
SAME_NATS = 1e-9
BY_EMBEDDINGS = (Reason.INPUT_DRIFT.value, Reason.OUTPUT_DRIFT.value)
BY_REPLAY = (Reason.CAUSE_REFINED.value, Reason.CAUSE_KEPT.value)
NOT_REPLAYED = "its cause rested on faults replayed after the alarm, which are not replayed again"
COMPARED = ("status", "reason", "cause", "covered_by")
VerdictKey = tuple[str, str, str, float]
"""(pod, subject kind, subject, seconds since the epoch)"""


@dataclass(frozen=True, slots=True)
class VerdictPair:
    """One verdict of then and of now. then, now: of ``COMPARED`` and log_e; None where there is none

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
        return self.then is None or self.now is None or any(self.then[name] != self.now[name] for name in COMPARED)

    @property
    def nats_apart(self) -> float:
        """Nats between the two levels of evidence, 0 where one is missing or was not stored."""
        if self.why_not or self.then is None or self.now is None or math.isnan(self.then["log_e"]):
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
        """Where another golden record than before is in force for an adapter, its evidence starts again."""
        for adapter, golden, files in _accepted(record):
            hashes = [(self.goldens, golden), (self.files, files)]
            if any(digest and before.get(adapter, digest) != digest for before, digest in hashes):
                self.monitor.accept_new_golden(adapter)
            for before, digest in hashes:
                if digest:
                    before[adapter] = digest
        return self.monitor.observe(record)


def judged_again(stored: Iterable[Stored], monitor: Callable[[], Monitor]) -> Iterator[tuple[Stored, Judged | None]]:
    """Each round, without its record, which is large, and what a monitor of its pod says of it; None where the record
    is incomplete."""
    pods: dict[str, Pod] = {}
    for round in stored:
        if round.pod not in pods:
            pods[round.pod] = Pod(monitor())
        judged = None if round.record is None else pods[round.pod].observe(round.record)
        yield replace(round, record=None), judged


def verdict_pairs(
    again: Iterable[tuple[Stored, Judged | None]], then: Sequence[Row], since: float
) -> list[VerdictPair]:
    """Verdicts of then and now, by pod and time, from ``since`` on. then: rows of verdicts"""
    now: dict[VerdictKey, list[Row]] = defaultdict(list)
    incomplete: dict[tuple[str, str, float], str] = {}
    blind: list[Stored] = []
    for round, judged in again:
        if judged is None:
            incomplete[round.pod, round.base, round.at] = round.why
            blind.append(round)
            continue
        for verdict in judged.verdicts:
            row = verdict_row(verdict)
            now[round.pod, row["subject_kind"], row["subject"], seconds(row["at"])].append(row)
    before: dict[VerdictKey, list[Row]] = defaultdict(list)
    by_replay: dict[VerdictKey, list[Row]] = defaultdict(list)
    for row in then:
        key = row["pod"], row["subject_kind"], row["subject"], seconds(row["at"])
        # A round of responses refines a cause by itself, and does so again.
        comes_again = any(own["reason"] == row["reason"] for own in now.get(key, ()))
        kind = by_replay if row["reason"] in BY_REPLAY and not comes_again else before
        kind[key].append(row)
    _fill_runs(before, {**_of_every_subject(blind, before), **now})
    keys = sorted({*now, *before, *by_replay}, key=lambda key: (key[0], key[3], key[1], key[2]))
    refined = _refined(keys, before, by_replay)
    not_again = [_pair(key, row, None, {}, True) for key, rows in by_replay.items() for row in rows if key[3] >= since]
    pairs = not_again + [
        _pair(key, *pair, incomplete, key in refined)
        for key in keys
        if key[3] >= since
        for pair in _matched(before[key], now[key])
    ]
    return sorted(pairs, key=lambda pair: (pair.pod, pair.at, pair.kind, pair.subject))


def _of_every_subject(blind: Iterable[Stored], then: Mapping[VerdictKey, Sequence[Row]]) -> dict[VerdictKey, list[Row]]:
    """Rounds of canaries that cannot be judged again: each had a verdict on every subject of its base. Round and time
    of these."""
    bases = {(*key[:3], row["base"]) for key, rows in then.items() for row in rows}
    return {
        (pod, kind, subject, round.at): [{"round": round.number, "at": when(round.at)}]
        for round in blind
        for pod, kind, subject, base in bases
        if round.by_canaries and (pod, base) == (round.pod, round.base)
    }


def _fill_runs(then: dict[VerdictKey, list[Row]], judged: Mapping[VerdictKey, Sequence[Row]]) -> None:
    """Put in what was said of rounds whose verdict was not stored: what the row before says, for as long as it holds.

    judged: what today's code says of them, as far as it says anything. An alarm is said once, so that it is never what
    was said again.
    """
    times: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for key in sorted(then, key=lambda key: key[3]):
        times[key[:3]].append(key[3])
    unstored: dict[VerdictKey, list[Row]] = {}
    for key, rows in judged.items():
        of_subject, at = times[key[:3]], key[3]
        place = bisect_left(of_subject, at)
        if len(then.get(key, ())) >= len(rows) or not place or at - of_subject[place - 1] > LONGEST_S:
            continue
        before = then[(*key[:3], of_subject[place - 1])]
        # Of two rows of one moment the store does not keep which came last.
        last = next((row for row in before if all(row[name] == rows[-1].get(name) for name in COMPARED)), before[-1])
        if last["reason"] != Reason.ALARM.value:
            same = last | {"log_e": NAN, "round": rows[-1]["round"], "at": rows[-1]["at"]}
            unstored[key] = [same] * (len(rows) - len(then.get(key, ())))
    for key, rows in unstored.items():
        then[key].extend(rows)


def _refined(
    keys: Sequence[VerdictKey], then: Mapping[VerdictKey, Sequence[Row]], by_replay: Collection[VerdictKey]
) -> set[VerdictKey]:
    """Those of an incident for whose cause faults were replayed before. keys: in the order of time"""
    refined: set[VerdictKey] = set()
    named: set[tuple[str, str, str]] = set()
    for key in keys:
        if {row["reason"] for row in then.get(key, ())} & {Reason.ALARM.value, Reason.RESOLVED.value}:
            named.discard(key[:3])
        refined |= {key} if key[:3] in named else set()
        named |= {key[:3]} if key in by_replay else set()
    return refined


def alarms(pairs: Iterable[VerdictPair], side: str) -> list[VerdictPair]:
    """Those that were an alarm. side: then or now"""
    rows = ((pair, getattr(pair, side)) for pair in pairs)
    return [pair for pair, row in rows if row is not None and row["reason"] == Reason.ALARM.value]


def _pair(
    key: VerdictKey, then: Row | None, now: Row | None, incomplete: Mapping[tuple[str, str, float], str], refined: bool
) -> VerdictPair:
    """refined: was the cause of its incident refined by replay?"""
    pod, kind, subject, at = key
    row: Any = then or now
    why = ""
    if now is None and (pod, row["base"], at) in incomplete:
        why = incomplete[pod, row["base"], at]
    elif then is not None and then["reason"] in BY_EMBEDDINGS:
        why = "it rested on embeddings, which are not judged again"
    elif refined and then is not None and (now is None or _differ_in(then, now) == ["cause"]):
        why = NOT_REPLAYED
    return VerdictPair(pod, kind, subject, row["base"], row["round"], at, then, now, why)


def _matched(then: Sequence[Row], now: Sequence[Row]) -> list[tuple[Row | None, Row | None]]:
    """Verdicts of one moment: canaries and responses may both have one, and the store does not keep which came first.

    Those that say the same belong together, of several the ones whose evidence is nearest; what is left, in order.
    """
    left, alone, pairs = sorted(now, key=_order), list[Row](), list[tuple[Row | None, Row | None]]()
    for row in sorted(then, key=lambda row: (math.isnan(row["log_e"]), _order(row))):
        alike = [place for place, other in enumerate(left) if not _differ_in(row, other)]
        if alike:
            nearest = min(alike, key=lambda place: abs(left[place]["log_e"] - row["log_e"]))
            pairs.append((row, left.pop(nearest)))
        else:
            alone.append(row)
    return [*pairs, *zip_longest(alone, left)]


def _differ_in(then: Row, now: Row) -> list[str]:
    return [name for name in COMPARED if then[name] != now[name]]


def _order(row: Row) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in COMPARED)


def _accepted(record: BaseRound | TrafficRound) -> list[tuple[str, str, str]]:
    """(adapter, hash of its golden record, hash of its accepted files), "" where the round does not hold them."""
    if isinstance(record, TrafficRound):
        return [(name, "", identity.golden_adapter) for name, identity in record.identities.items()]
    return [
        (
            member.adapter,
            next((m.comparison.reference.golden for m in member.measurements), ""),
            member.identity.golden_adapter,
        )
        for member in record.members
    ]
