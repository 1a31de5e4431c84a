"""Rows in memory: findings are dropped by importance, traffic never, and within a table the order is kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agent.records import SavedState
from agent.store.rows import to_rows
from agent.store.table_rows import Origin, TableRows, when
from agent.store.waiting_rows import MOST_ROWS, WaitingFindings, WaitingTraffic
from tests.agent import findings

HERE = Origin("prod", "pod-0")


def test_a_full_buffer_drops_comparisons_first_and_verdicts_last() -> None:
    waiting = WaitingFindings(0.2e6, 2_000)
    for i in range(200):
        for finding in (findings.base_round(i), findings.alarm(findings.NOW + i)):
            for group in to_rows(finding, HERE):
                waiting.add(group)
    assert waiting.dropped > 0
    assert "comparisons" not in waiting.tables
    assert waiting.tables["verdicts"]
    assert waiting.n_bytes <= 0.2e6
    while waiting:
        assert waiting.take()
    assert waiting.n_bytes == 0, "what is taken gives its room back"


def test_of_a_saved_state_only_the_latest_of_each_base_waits() -> None:
    waiting = WaitingFindings(1e6, 2_000)
    for minute in range(10):
        for base in ("one", "other"):
            state = SavedState(findings.NOW + minute, 2, base, ("adapter/a",), b"x" * 10_000)
            for group in to_rows(state, HERE):
                waiting.add(group)
    latest = [(row["base"], row["at"]) for row in waiting.tables["states"]]
    assert latest == [("one", when(findings.NOW + 9)), ("other", when(findings.NOW + 9))]
    assert 20_000 < waiting.n_bytes < 30_000


def test_what_is_taken_of_findings_is_bounded_by_rows_and_by_bytes() -> None:
    waiting = WaitingFindings(1e9, 100)
    (group,) = (group for group in to_rows(findings.base_round(), HERE) if group.table == "comparisons")
    large = group.rows[0] | {"served_log_probs": np.zeros(1_000_000, np.float32)}
    for row in (*group.rows * 100, *[large] * 10):
        waiting.add(TableRows("comparisons", (row,)))
    first, second = waiting.take(), waiting.take()
    assert {len(insert.rows) for insert in first[:-1]} == {100}
    n_large = [sum(row["served_log_probs"].nbytes > 1e6 for row in insert.rows) for insert in first]
    assert sum(n_large) == 4, "4 MB each, and no more once 16 MB are taken"
    assert sum(len(insert.rows) for insert in second) == 4


def test_a_batch_row_never_overtakes_its_other_rows_and_no_batch_a_former_one() -> None:
    waiting = WaitingTraffic()
    for i in range(20):
        kept = tuple(findings.interaction(100 * i + n) for n in range(1 + i % 4))
        for group in to_rows(replace(findings.batch(100 * i), interactions=kept), HERE):
            waiting.add(group)
    order: dict[str, list[int]] = {}
    done: set[str] = set()
    for insert in waiting.take():
        assert insert.table not in done, "table by table"
        order.setdefault(insert.table, []).extend(
            row["first_offset"] if "first_offset" in row else row["offset"] for row in insert.rows
        )
        done = set(order) - {insert.table}
    assert list(order)[-1] == "batches"
    assert all(offsets == sorted(offsets) for offsets in order.values())
    assert order["batches"] == [100 * i for i in range(20)] and not waiting


def test_one_take_is_bounded_and_leaves_later_batches_for_the_next() -> None:
    waiting, groups = WaitingTraffic(), to_rows(findings.batch(0), HERE)
    while len(waiting) <= 2 * MOST_ROWS:
        for group in groups:
            waiting.add(group)
    first = waiting.take()
    assert MOST_ROWS <= sum(len(insert.rows) for insert in first) <= MOST_ROWS + 10
    assert len(first) == 4, "one insert a table"
    second = waiting.take()
    assert sum(len(insert.rows) for insert in (*first, *second)) + len(waiting) == pytest.approx(2 * MOST_ROWS, abs=10)
