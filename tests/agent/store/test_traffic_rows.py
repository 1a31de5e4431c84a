"""Traffic as rows: one batch whole, against a file, and times of a producer that make no sense."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np
import orjson
import pytest

from agent.records import TrafficBatch
from agent.store.rows import to_rows
from agent.store.table_rows import Origin, when
from tests.agent import findings
from tests.agent.findings import FIXED
from tests.agent.golden_file import assert_golden


def plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.isoformat() if isinstance(value, datetime) else str(value)


def test_one_batch_as_it_is_stored() -> None:
    groups = to_rows(findings.batch(100, at=FIXED), Origin("prod", "pod-0", consumer_group="gapwatch"))
    stored = [{"table": group.table, "token": group.token, "rows": list(group.rows)} for group in groups]
    text = orjson.dumps(stored, default=plain, option=orjson.OPT_INDENT_2 | orjson.OPT_PASSTHROUGH_DATETIME).decode()
    assert_golden("clickhouse_batch.json", text + "\n")


@pytest.mark.parametrize(
    ("at", "day"),
    [
        (FIXED, "2026-09-21"),
        (-1e30, "1900-01-01"),
        (1e30, "2299-12-31"),
        (float("inf"), "2299-12-31"),
        (float("nan"), "1970-01-01"),
    ],
)
def test_any_time_of_a_producer_has_a_place_in_the_store(at: float, day: str) -> None:
    assert when(at).date().isoformat() == day
    batch = findings.batch(at=FIXED)
    odd: TrafficBatch = replace(
        batch,
        interactions=(findings.interaction(0, at=at),),
        counts=tuple(replace(count, minute=at) for count in batch.counts),
    )
    counts, interactions, *_ = to_rows(odd, Origin())
    assert interactions.rows[0]["at"] == when(at)
    assert 0 <= counts.rows[0]["minute"].timestamp() < 2**32, "a DateTime, not a DateTime64"
