"""The page about all adapters: well formed, escaped, made once a minute, and with the five to look at first on top."""

from __future__ import annotations

import math
from pathlib import Path

from agent.clock import HandClock
from agent.config import load
from agent.economics.portfolio import Line, Portfolio, decide, situation_of
from agent.status_page.portfolio_page import PortfolioPage, headline, rendered
from detectors.economics.choices import Assumptions
from detectors.economics.worth import Worth
from tests.agent.economics.stores import configured
from tests.agent.economics.test_worth_file import measured
from tests.agent.status_page.test_page import outline


def whole(folder: Path, nasty: str = "ro<u>ter & co") -> Portfolio:
    config = load(configured(folder))
    worth = measured(nasty, Worth.BASE_PASSES)
    decision = decide(
        situation_of(config, worth, None, is_degraded=False, rebuildable=True), Assumptions(), ("pin_gpus",)
    )
    retire = Line(nasty, "m", "Ada", "healthy", 1.0, None, worth, None, decision)
    unknown = Line("tone", "m", "", "", math.nan, None, None, None, None, "not measured: gapwatch worth tone")
    return Portfolio((retire, unknown), "EUR", ("gpu_hour",), 1_790_000_000.0, "storage: too few rights")


def test_the_page_is_well_formed_and_escaped(tmp_path: Path) -> None:
    html = rendered(whole(tmp_path), load(configured(tmp_path))).decode()
    assert outline(html).open == [] and "<u>" not in html and "ro&lt;u&gt;ter &amp; co" in html
    assert html.index("ro&lt;u&gt;ter") < html.index("tone") and "retire" in html and "too few rights" in html
    assert "gpu_hour" in html and "pin_gpus" in html and "script" not in html


def test_the_headline_counts_what_is_to_be_done(tmp_path: Path) -> None:
    assert headline(whole(tmp_path)) == "1 of 2 adapters to act on, 1 to be measured"


def test_whoever_looks_within_a_minute_asks_no_store(tmp_path: Path) -> None:
    questions: list[str] = []
    clock = HandClock()

    def ask(name: str, _: object) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
        questions.append(name)
        return (), ()

    page = PortfolioPage(load(configured(tmp_path)), ask, clock)
    assert page.html() == page.html() and questions == ["spent", "served", "stored", "standing"]
    clock.advance(61.0)
    page.html()
    assert len(questions) == 8
