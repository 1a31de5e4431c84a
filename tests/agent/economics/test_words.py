"""Is every cell filled, and is money written so that small amounts are not nothing?"""

from __future__ import annotations

import math
from datetime import date
from pathlib import Path

import pytest

from agent.config import load
from agent.economics.portfolio import Line, decide, situation_of
from agent.economics.words import COLUMNS, cells, money_words, words_of
from detectors.economics.choices import Assumptions
from detectors.economics.worth import Worth
from tests.agent.economics.stores import configured
from tests.agent.economics.test_worth_file import measured


@pytest.mark.parametrize(
    ("money", "words"),
    [
        (0.0, "0.00 EUR"),
        (1234.5, "1,234.50 EUR"),
        (0.00123, "0.0012 EUR"),
        (3.0, "3.00 EUR"),
        (math.nan, "-"),
        (math.inf, "-"),
    ],
)
def test_money(money: float, words: str) -> None:
    assert money_words(money, "EUR") == words


def test_a_line_of_which_nothing_is_known_has_a_cell_for_each_column(tmp_path: Path) -> None:
    config = load(configured(tmp_path))
    line = Line("router", "m", "", "", math.nan, None, None, None, None, "not measured: gapwatch worth router")
    assert cells(line, config) == (
        *("router", "-", "not judged", "-", "-", "-", "-", "measure: not measured: gapwatch worth router", "-"),
    )
    assert len(COLUMNS) == 9


def test_what_decides_and_what_nobody_filled_in_is_said(tmp_path: Path) -> None:
    config = load(configured(tmp_path))
    situation = situation_of(config, measured(worth=Worth.LOST), None, is_degraded=False, rebuildable=False)
    decision = decide(situation, Assumptions(), ("curation_days",))
    words = "\n".join(words_of(decision, "EUR", date(2026, 11, 29)))
    assert "at stake" in words and "curation_days" in words and "--set economics." in words
    assert "to make it from its data costs 4,216.00 EUR" in words and "paid for itself on 20" in words
    assert "hangs on" in words or "no assumption decides" in words
