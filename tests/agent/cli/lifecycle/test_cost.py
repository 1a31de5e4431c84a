"""gapwatch cost: parts, share and volume as a table, as JSON and as rows; the exit code by the target."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from agent.cli.lifecycle.cost import CostOptions, show_cost
from agent.errors import Refused
from agent.terminal.console import console
from tests.agent.economics.stores import configured
from tests.agent.findings import BASE, ROUTER, TONE


@pytest.fixture(scope="module")
def config(store_of_costs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return configured(tmp_path_factory.mktemp("config"), store_of_costs)


def test_the_table_says_what_it_costs_what_raises_it_and_which_prices_are_not_theirs(config: Path) -> None:
    with console.capture() as printed:
        code = show_cost(config, CostOptions(), json=False)
    words = printed.get()
    assert code == 1  # thirty seconds of a core for a hundred short requests are more than 1 %
    assert ROUTER in words and BASE in words and "(the base" in words
    assert "all together" in words and "above the 1.0% of costs.target" in words
    assert "probes.every longer" in words and "gpu_hour" in words


def test_the_same_for_programs(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show_cost(config, CostOptions(), json=True) == 1
    report = json.loads(capsys.readouterr().out)
    router = next(row for row in report["adapters"] if row["adapter"] == ROUTER)
    assert router["money"] == pytest.approx(sum(part["money"] for part in router["parts"].values()))
    assert router["serving_money"] == pytest.approx(router["requests"] * (20 * 0.1 + 8 * 0.4) / 1e6)
    assert report["share"] > report["target"] == 0.01 and "person_day" in report["prices_not_set"]
    assert router["requests_for_target"] is None or router["requests_for_target"] > router["requests"]


def test_a_row_for_each_adapter_and_part(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show_cost(config, CostOptions(csv=True), json=False) == 1
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {(row["adapter"], row["part"]) for row in rows} >= {(ROUTER, "scoring"), (TONE, "file canaries")}
    assert all(float(row["EUR_a_day"]) >= 0 for row in rows)
    with pytest.raises(Refused, match="one of the two"):
        show_cost(config, CostOptions(csv=True), json=True)


def test_cheap_enough_is_zero_and_unknown_is_two(store_of_costs: Path, tmp_path: Path) -> None:
    prices = {"input_million": 1e6, "output_million": 1e6, "cpu_hour": 0.01}
    with console.capture() as printed:
        assert show_cost(configured(tmp_path, store_of_costs, costs=prices), CostOptions(), json=False) == 0
    assert "within" in printed.get()
    with console.capture() as printed:
        assert show_cost(configured(tmp_path, store_of_costs, cluster="nobody"), CostOptions(), json=False) == 2
    assert "not known" in printed.get()
