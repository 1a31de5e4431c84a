"""Counts from labels alone: from the watermark on, by the record's own minute and pod, and only configured adapters."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from agent.kafka.contract import Message, PartitionRecords, RecordColumns
from agent.records import RequestCount
from agent.traffic.record_labels import IN_BODY, NOT_CONFIGURED, RecordLabels
from agent.traffic.request_counts import count_key, count_labels, request_counts

NOW = 600.0
ADAPTERS = ["a", "a", "b", "a", IN_BODY, NOT_CONFIGURED]
STAMPS_MS = [60_000, 119_999, 120_000, 60_000, 60_000, 60_000]
COLUMNS = RecordColumns(np.array([3, 4, 6, 7, 8, 9]), np.array(STAMPS_MS), [None] * 6, ())
PODS = ["p", "p", "p", "q", "p", "p"]


@pytest.mark.parametrize(
    ("mark", "wanted"),
    [
        (0, {("a", "p", 60.0): 2, ("b", "p", 120.0): 1, ("a", "q", 60.0): 1}),
        (5, {("b", "p", 120.0): 1, ("a", "q", 60.0): 1}),
        (7, {("a", "q", 60.0): 1}),
        (10, {}),
    ],
)
def test_records_from_the_watermark_on_are_counted_by_adapter_pod_and_minute(
    mark: int, wanted: dict[tuple[str, str, float], int]
) -> None:
    assert count_labels(RecordLabels(ADAPTERS, ADAPTERS, PODS), COLUMNS, mark, NOW) == wanted


def test_the_quick_way_for_one_pod_and_minute_gives_the_same() -> None:
    columns = COLUMNS._replace(stamps_ms=np.full(6, 61_000))
    assert count_labels(RecordLabels(ADAPTERS, ADAPTERS), columns, 0, NOW) == {("a", "", 60.0): 3, ("b", "", 60.0): 1}


@pytest.mark.parametrize("stamp_ms", [-1, 90_000_000_000, 1_700_000_000_000_000])
def test_a_timestamp_that_cannot_be_is_counted_now(stamp_ms: int) -> None:
    columns = COLUMNS._replace(stamps_ms=np.full(6, stamp_ms))
    assert {minute for _, _, minute in count_labels(RecordLabels(ADAPTERS, ADAPTERS), columns, 0, NOW)} == {NOW}


def test_the_key_of_one_record_is_the_one_it_was_counted_under() -> None:
    labels = RecordLabels(ADAPTERS, ADAPTERS, PODS)
    keys = [count_key(labels, COLUMNS, position, NOW) for position in range(6)]
    assert keys == [("a", "p", 60.0), ("a", "p", 60.0), ("b", "p", 120.0), ("a", "q", 60.0), None, None]


def test_stored_ranges_begin_at_the_watermark() -> None:
    records = PartitionRecords("traffic", 2, [Message(offset, 0.0, None, b"", {}) for offset in (3, 4, 9)])
    counts = Counter({("a", "p", 60.0): 2})
    assert request_counts(records, 5, counts) == (RequestCount("traffic", 2, 5, 9, "a", "p", 60.0, 2),)
    assert request_counts(records, 0, counts)[0].first_offset == 3
