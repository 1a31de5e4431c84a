"""How many requests each adapter had, by pod and minute, from labels alone: no record is decoded for it.

The counts of a partition are stored by offset range, and the ranges are disjoint: that is what keeps a re-delivered
record from being counted twice (watermarks.py).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from agent.kafka.contract import PartitionRecords, RecordColumns
from agent.records import RequestCount
from agent.traffic.record_labels import IN_BODY, NOT_CONFIGURED, RecordLabels

A_DAY_MS = 86_400_000
CountKey = tuple[str, str, float]
"""(adapter, pod, minute in seconds since the epoch)"""


def count_labels(labels: RecordLabels, columns: RecordColumns, mark: int, now: float) -> Counter[CountKey]:
    """Records from offset ``mark`` on whose labels name a configured adapter; now: seconds since the epoch."""
    begin = bisect_left(columns.offsets, mark)
    names = labels.counted[begin:]
    minutes = _minutes(columns.stamps_ms[begin:], now)
    if not len(minutes):
        return Counter()
    pods = labels.pods[begin:] if labels.pods else [""] * len(names)
    if minutes.min() == minutes.max() and len(set(pods)) == 1:
        only = float(minutes[0])
        counts = Counter({(name, pods[0], only): n for name, n in Counter(names).items()})
    else:
        counts = Counter(zip(names, pods, minutes.tolist(), strict=True))
    return Counter({key: n for key, n in counts.items() if key[0] not in (IN_BODY, NOT_CONFIGURED)})


def count_key(labels: RecordLabels, columns: RecordColumns, position: int, now: float) -> CountKey | None:
    """The key that ``count_labels`` has counted this record under, None where it has not counted it."""
    adapter = labels.counted[position]
    if adapter in (IN_BODY, NOT_CONFIGURED):
        return None
    minute = float(_minutes(columns.stamps_ms[position : position + 1], now)[0])
    return adapter, labels.pods[position] if labels.pods else "", minute


def _minutes(stamps_ms: NDArray[np.int64], now: float) -> NDArray[np.float64]:
    """Kafka timestamps floored to minutes, in seconds; ``now`` in place of one that is negative or a day ahead.

    A producer's clock may be in other units: a minute that no table can store would block the partition permanently.
    """
    now_ms = int(now * 1000)
    plausible = np.where((stamps_ms >= 0) & (stamps_ms <= now_ms + A_DAY_MS), stamps_ms, now_ms)
    return (plausible // 60_000 * 60).astype(float)


def request_counts(records: PartitionRecords, mark: int, counts: Counter[CountKey]) -> tuple[RequestCount, ...]:
    """As they are stored. first_offset is where counting began: so the ranges of one partition are disjoint."""
    first, last = max(records.first_offset, mark), records.next_offset - 1
    return tuple(
        RequestCount(records.topic, records.partition, first, last, adapter, pod, minute, n)
        for (adapter, pod, minute), n in counts.items()
    )
