"""Canary rounds as rows: the shares of a round's cost, and a round without measurements."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agent.store.canary_rows import round_row, token_shares
from agent.store.rows import to_rows
from agent.store.table_rows import Origin
from tests.agent import findings


@pytest.mark.parametrize("measured", [(4, 4), (4, 0), (0, 0)])
def test_shares_of_the_cost_add_up(measured: tuple[int, int]) -> None:
    whole = findings.base_round()
    members = tuple(replace(m, measurements=m.measurements[:n]) for m, n in zip(whole.members, measured, strict=True))
    shares = token_shares(replace(whole, members=members))
    assert sum(shares) == pytest.approx(1.0)
    assert shares[0] == (1.0 if measured == (4, 0) else 0.5)


def test_a_blocked_round_is_a_row_without_figures() -> None:
    blocked = findings.base_round(measurements=(), facts=("a fact",))
    (rounds,) = to_rows(blocked, Origin())
    assert rounds.table == "rounds"
    row = rounds.rows[0]
    assert (row["canaries"], row["retention_n"], row["facts"]) == (0, 0, ["a fact"])
    assert np.isnan([row["retention"], row["scale"], row["gap_ratio"]]).all()


def test_a_round_has_the_mean_of_what_its_canaries_answer_outside_the_kept_tokens() -> None:
    seen = findings.round_()
    rows = tuple(
        replace(m, mass_outside=mass) for m, mass in zip(seen.measurements, (0, 0.01, 0.02, 0.05), strict=True)
    )
    assert round_row(replace(seen, measurements=rows))["mass_outside"] == pytest.approx(0.02)
