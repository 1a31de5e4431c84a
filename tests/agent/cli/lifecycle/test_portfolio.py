"""gapwatch portfolio: all adapters in one table, one with all its choices, and the exit code by what is to be done."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from agent.cli.lifecycle.portfolio import PortfolioOptions, show_portfolio
from agent.config import load
from agent.economics import worth_file
from agent.errors import Refused
from agent.terminal.console import console
from detectors.economics.worth import Worth
from tests.agent.economics.stores import configured
from tests.agent.economics.test_worth_file import measured
from tests.agent.findings import ACCEPTED, ROUTER, TONE


@pytest.fixture(scope="module")
def config(store_of_costs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return configured(tmp_path_factory.mktemp("config"), store_of_costs)


def wrote(config: Path, adapter: str, worth: Worth) -> None:
    golden_dir = load(config).probes.golden_dir
    worth_file.write(golden_dir, measured(adapter, worth, base_hash=ACCEPTED.live_base, prompted=()))


def test_what_is_not_measured_cannot_be_told(config: Path) -> None:
    with console.capture() as printed:
        assert show_portfolio(config, PortfolioOptions(), json=False) == 2
    assert f"gapwatch worth {ROUTER}" in " ".join(printed.get().split())


def test_all_that_adds_is_kept_and_what_the_base_does_alone_is_to_be_acted_on(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (ROUTER, TONE):
        wrote(config, name, Worth.ADDS)
    assert show_portfolio(config, PortfolioOptions(), json=True) == 0
    assert [row["verdict"] for row in json.loads(capsys.readouterr().out)] == ["keep", "keep"]
    wrote(config, TONE, Worth.BASE_PASSES)
    assert show_portfolio(config, PortfolioOptions(), json=True) == 1
    first, second = json.loads(capsys.readouterr().out)
    assert (first["adapter"], first["verdict"], second["verdict"]) == (TONE, "retire", "keep")
    chosen = next(own for own in first["choices"] if own["choice"] == "retire")
    kept = next(own for own in first["choices"] if own["choice"] == "keep")
    assert first["at_stake_a_year"] == pytest.approx(kept["total"] - chosen["total"]) and first["at_stake_a_year"] > 0
    assert show_portfolio(config, PortfolioOptions(csv=True), json=False) == 1
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["adapter"] for row in rows] == [TONE, ROUTER] and rows[0]["currency"] == "EUR"


def test_one_of_them_with_its_choices(config: Path) -> None:
    wrote(config, TONE, Worth.BASE_PASSES)
    with console.capture() as printed:
        assert show_portfolio(config, PortfolioOptions(adapter=TONE), json=False) == 1
    words = printed.get()
    assert f"{TONE}: retire" in words and "pin" in words and "rebuild" in words and "nobody filled in" in words
    with pytest.raises(Refused, match="one of"):
        show_portfolio(config, PortfolioOptions(adapter="nobody"), json=False)
