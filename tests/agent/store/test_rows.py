"""Findings as rows: one batch whole, against a file, and the shares of a round's cost."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np
import orjson
import pytest

from agent.records import TrafficBatch
from agent.store.rows import Origin, to_rows, token_shares, when
from tests.agent import findings
from tests.agent.findings import FIXED
from tests.agent.golden_file import assert_golden


def plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.isoformat() if isinstance(value, datetime) else str(value)


def test_one_batch_as_it_is_stored() -> None:
    groups = to_rows(findings.batch(100, at=FIXED), Origin("prod", "pod-0"))
    seen = [{"table": g.table, "token": g.token, "rows": list(g.rows)} for g in groups]
    text = orjson.dumps(seen, default=plain, option=orjson.OPT_INDENT_2 | orjson.OPT_PASSTHROUGH_DATETIME).decode()
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
    seen = findings.batch(at=FIXED)
    odd: TrafficBatch = replace(
        seen, interactions=(findings.interaction(0, at=at),), counts=tuple(replace(c, minute=at) for c in seen.counts)
    )
    counts, interactions, *_ = to_rows(odd, Origin())
    assert interactions.rows[0]["at"] == when(at)
    assert 0 <= counts.rows[0]["minute"].timestamp() < 2**32, "a DateTime, not a DateTime64"


@pytest.mark.parametrize("measured", [(4, 4), (4, 0), (0, 0)])
def test_shares_of_the_cost_add_up(measured: tuple[int, int]) -> None:
    seen = findings.base_round()
    members = tuple(replace(m, measurements=m.measurements[:n]) for m, n in zip(seen.members, measured, strict=True))
    shares = token_shares(replace(seen, members=members))
    assert sum(shares) == pytest.approx(1.0)
    assert shares[0] == (1.0 if measured == (4, 0) else 0.5)


def test_a_blocked_round_is_a_row_without_figures() -> None:
    blocked = findings.base_round(measurements=(), facts=("a fact",))
    (rounds,) = to_rows(blocked, Origin())
    assert rounds.table == "rounds"
    row = rounds.rows[0]
    assert (row["canaries"], row["retention_n"], row["facts"]) == (0, 0, ["a fact"])
    assert np.isnan([row["retention"], row["scale"], row["gap_ratio"]]).all()


def test_rows_of_a_table_have_the_same_columns_in_the_same_order() -> None:
    seen: dict[str, list[str]] = {}
    again = (*findings.every_kind(), *findings.every_kind(FIXED), findings.verdict())
    for group in (g for finding in again for g in to_rows(finding, Origin(store_text=True))):
        for row in group.rows:
            assert seen.setdefault(group.table, list(row)) == list(row)
