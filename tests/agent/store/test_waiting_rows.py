"""Rows in memory: findings are dropped by importance, traffic never, and within a table the order is kept."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.records import SavedState
from agent.store.rows import to_rows
from agent.store.table_rows import Origin, when
from agent.store.waiting_rows import MOST_ROWS, WaitingFindings, WaitingTraffic
from tests.agent import findings

HERE = Origin("prod", "pod-0")


def test_a_full_buffer_drops_comparisons_first_and_verdicts_last() -> None:
    waiting = WaitingFindings(0.2e6)
    for i in range(200):
        for finding in (findings.base_round(i), findings.alarm(findings.NOW + i)):
            for group in to_rows(finding, HERE):
                waiting.add(group)
    assert waiting.dropped > 0
    assert "comparisons" not in waiting.tables
    assert waiting.tables["verdicts"]
    assert waiting.n_bytes <= 0.2e6
    while waiting:
        assert waiting.take(2_000)
    assert waiting.n_bytes == 0, "what is taken gives its room back"


def test_of_a_saved_state_only_the_latest_of_each_base_waits() -> None:
    waiting = WaitingFindings(1e6)
    for minute in range(10):
        for base in ("one", "other"):
            state = SavedState(findings.NOW + minute, 2, base, ("adapter/a",), b"x" * 10_000)
            for group in to_rows(state, HERE):
                waiting.add(group)
    latest = [(row["base"], row["at"]) for row in waiting.tables["states"]]
    assert latest == [("one", when(findings.NOW + 9)), ("other", when(findings.NOW + 9))]
    assert 20_000 < waiting.n_bytes < 30_000


def test_a_batch_row_never_overtakes_its_other_rows_and_no_batch_a_former_one() -> None:
    waiting = WaitingTraffic()
    for i in range(20):
        kept = tuple(findings.interaction(100 * i + n) for n in range(1 + i % 4))
        for group in to_rows(replace(findings.batch(100 * i), interactions=kept), HERE):
            waiting.add(group)
    order: dict[str, list[int]] = {}
    done: set[str] = set()
    for insert in waiting.take(5):
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
    first = waiting.take(2_000)
    assert MOST_ROWS <= sum(len(insert.rows) for insert in first) <= MOST_ROWS + 10
    assert all(len(insert.rows) <= 2_000 for insert in first)
    second = waiting.take(2_000)
    assert sum(len(insert.rows) for insert in (*first, *second)) + len(waiting) == pytest.approx(2 * MOST_ROWS, abs=10)
