"""What can be told of many records at once before any is decoded: adapter, pod, request id, and who is counted.

The adapter is the record's key, else its header ``adapter``; the id its header ``request_id`` (``ce_id`` of a
CloudEvent), else none. Everything here is by column: at tens of thousands of records a second there is about a
microsecond for each.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.kafka.contract import PartitionRecords, RecordColumns
from agent.records import RequestCount
from agent.traffic.json_fields import pod_name
from agent.traffic.reservoir import RankHash, Ranks

A_DAY_MS = 86_400_000
REMEMBERED = 10_000
LOOKED_AT = frozenset(("adapter", "request_id", "pod", "ce_id", "ce_type", "content-type"))
Columns = Mapping[str, Sequence[bytes | None]]
BODY_TELLS = ""  # no key or header names an adapter: the record has to be opened
STRANGER = "\0"  # a header names an adapter that is not ours


@dataclass(frozen=True, slots=True)
class RecordLabels:
    """Of each record of a poll, in order; all of one length, pods and ids empty where no record has a header.

    adapters: a known name, BODY_TELLS or STRANGER; counted: the same, but BODY_TELLS for what is no request by itself
    ids: bytes, None without; halves: positions that a header calls one half of a pair
    """

    adapters: Sequence[str]
    counted: Sequence[str]
    pods: Sequence[str] = ()
    ids: Sequence[bytes | None] = ()
    halves: frozenset[int] = frozenset()

    def ranks(self, ranking: RankHash, got: PartitionRecords, outline: RecordColumns) -> Ranks:
        """By request id and minute where there is an id, by that alone for halves, else by offset.

        The minute, because some engines draw their ids from a thousand: by the id alone the same few would be chosen
        for ever, or none. What is produced again within its minute is chosen again.
        """
        minutes = (outline.stamps_ms // 60_000).astype(np.uint64)
        minutes[list(self.halves)] = 0
        if self.ids and all(self.ids):
            return ranking.of_ids((found or b"" for found in self.ids), minutes)
        ranks = ranking.of_offsets(got.topic, got.partition, outline.offsets)
        named = [at for at, found in enumerate(self.ids) if found]
        if named:
            ranks[named] = ranking.of_ids((self.ids[at] or b"" for at in named), minutes[named])
        return ranks


class LabelReader:
    """Callable: RecordColumns to RecordLabels.

    adapters: names that are ours; body_tells_half: records without ``ce_type`` have to be opened, whatever their key,
    because only their body says which half of a pair they are
    """

    def __init__(self, adapters: Sequence[str], body_tells_half: bool = False) -> None:
        self._adapters: Mapping[bytes | None, str] = {name.encode(): name for name in adapters}
        self._body_tells_half = body_tells_half
        self._pods: dict[bytes | None, str] = {}

    def __call__(self, outline: RecordColumns) -> RecordLabels:
        if outline.headers:
            return self._by_headers(outline)
        if self._body_tells_half:
            unknown = [BODY_TELLS] * len(outline.keys)
            return RecordLabels(unknown, unknown)
        # A key that is no adapter's may be anything, a user's number too: it does not say that the record is not ours.
        names = {key: self._named(key, BODY_TELLS) for key in set(outline.keys)}
        adapters = [names[key] for key in outline.keys]
        return RecordLabels(adapters, adapters)

    def _by_headers(self, outline: RecordColumns) -> RecordLabels:
        column = columns_of(outline.headers)
        n, types = len(outline.keys), column.get("ce_type", ())
        halves = frozenset(at for at, kind in enumerate(types) if kind)
        requests = {at for at in halves if (types[at] or b"").endswith(b".request")}
        adapters = self._adapters_of(outline.keys, column, halves)
        counted = [BODY_TELLS if at in requests else name for at, name in enumerate(adapters)] if requests else adapters
        pods = self._pods_of(column["pod"]) if "pod" in column else [""] * n
        ids = column.get("request_id") or column.get("ce_id") or ()
        if "request_id" in column and "ce_id" in column:
            ids = [one or other for one, other in zip(column["request_id"], column["ce_id"], strict=True)]
        return RecordLabels(adapters, counted, pods, ids, halves)

    def _adapters_of(self, keys: Sequence[bytes | None], column: Columns, halves: frozenset[int]) -> list[str]:
        """By key, else by header; an event in structured mode by its body, because only that says which half it is."""
        known, named, kinds = self._adapters, column.get("adapter"), column.get("content-type")
        if named is None:
            found = [known.get(key) or self._named(key, BODY_TELLS) for key in keys]
        else:
            by_header = ((known.get(name) or self._named(name, STRANGER) if name else BODY_TELLS) for name in named)
            found = [known.get(key) or name for key, name in zip(keys, by_header, strict=True)]
        if self._body_tells_half or kinds:
            structured = (at for at in range(len(keys)) if self._body_tells_half or _is_event(kinds, at))
            for at in [at for at in structured if at not in halves]:
                found[at] = BODY_TELLS
        return found

    def _named(self, name: bytes | None, other: str) -> str:
        """The adapter of this name, also with its base before it; ``other`` where it is none of ours."""
        if name is None or b":" not in name:
            return self._adapters.get(name, other)
        _, adapter = split_base(name.decode("utf-8", "replace"), self._adapters.values())
        return self._adapters.get(adapter.encode(), other)

    def _pods_of(self, names: Sequence[bytes | None]) -> list[str]:
        """As ``json_fields.pod_name`` has them; remembered, because a fleet has few."""
        for name in set(names) - self._pods.keys():
            self._pods[name] = pod_name((name or b"").decode("utf-8", "replace"))
        found = [self._pods[name] for name in names]
        if len(self._pods) > REMEMBERED:
            self._pods = {}
        return found


def split_base(name: str, adapters: Collection[str]) -> tuple[str, str]:
    """(base, adapter) of ``base:adapter``, as SGLang is asked for one; ("", name) of any other name.

    Only a configured name is looked for behind a colon: ``llama3:8b`` is whole, and an adapter of that name too.
    """
    at = -1 if name in adapters else name.find(":")
    while at >= 0:
        if name[at + 1 :] in adapters:
            return name[:at], name[at + 1 :]
        at = name.find(":", at + 1)
    return "", name


def columns_of(headers: Sequence[Sequence[tuple[str, bytes | None]]]) -> Columns:
    """The headers that are looked at, each as one value a record; a name that no record has is left out.

    An exporter writes the same names in the same order, and then nothing is built for single records: a container for
    each would wake the collector, which walks all that the client has fetched. Of a name written twice the last counts.
    """
    width = len(headers[0])
    if all(len(found) == width for found in headers):
        names = [{found[at][0] for found in headers} for at in range(width)]
        if all(len(written) == 1 for written in names):
            at_place = {written.pop(): at for at, written in enumerate(names)}
            return {name: [found[at][1] for found in headers] for name, at in at_place.items() if name in LOOKED_AT}
    by_record = [dict(found) for found in headers]
    there = set[str]().union(*by_record) & LOOKED_AT
    return {name: [found.get(name) for found in by_record] for name in there}


def _is_event(kinds: Sequence[bytes | None] | None, at: int) -> bool:
    """A CloudEvent in structured mode: the binding to Kafka demands this header."""
    return kinds is not None and (kinds[at] or b"").startswith(b"application/cloudevents")


def counts_of(told: RecordLabels, outline: RecordColumns, mark: int, now: float) -> Counter[tuple[str, str, float]]:
    """(adapter, pod, minute) -> records from offset ``mark`` on whose adapter was told; minute: seconds, floored."""
    begin = bisect_left(outline.offsets, mark)
    names = told.counted[begin:]
    minutes = _minutes(outline.stamps_ms[begin:], now)
    if not len(minutes):
        return Counter()
    pods = told.pods[begin:] if told.pods else [""] * len(names)
    if minutes.min() == minutes.max() and len(set(pods)) == 1:
        only = float(minutes[0])
        found = Counter({(name, pods[0], only): n for name, n in Counter(names).items()})
    else:
        found = Counter(zip(names, pods, minutes.tolist(), strict=True))
    return Counter({label: n for label, n in found.items() if label[0] not in (BODY_TELLS, STRANGER)})


def label_of(told: RecordLabels, outline: RecordColumns, at: int, now: float) -> tuple[str, str, float] | None:
    """(adapter, pod, minute) that ``counts_of`` has counted this record under, None where it has not."""
    if told.counted[at] in (BODY_TELLS, STRANGER):
        return None
    minute = float(_minutes(outline.stamps_ms[at : at + 1], now)[0])
    return told.counted[at], told.pods[at] if told.pods else "", minute


def _minutes(stamps_ms: NDArray[np.int64], now: float) -> NDArray[np.float64]:
    """A producer's clock may be in other units: a minute that no table holds would stop the partition for good."""
    now_ms = int(now * 1000)
    sane = np.where((stamps_ms >= 0) & (stamps_ms <= now_ms + A_DAY_MS), stamps_ms, now_ms)
    return (sane // 60_000 * 60).astype(float)


def request_counts(
    got: PartitionRecords, mark: int, counts: Counter[tuple[str, str, float]]
) -> tuple[RequestCount, ...]:
    """first_offset is where counting began, so that the ranges of all counts of a partition are disjoint."""
    first, last = max(got.first_offset, mark), got.next_offset - 1
    return tuple(
        RequestCount(got.topic, got.partition, first, last, adapter, pod, minute, n)
        for (adapter, pod, minute), n in counts.items()
    )
