"""Is every amount of the table a row of the store?"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from agent.cli.query import asking
from agent.config import Config, load
from agent.economics.stored_cost import Ask, StoredCost, bases_of, stored_cost
from agent.errors import Refused, Retryable
from detectors.economics.own_cost import Part
from tests.agent.economics.stores import configured
from tests.agent.findings import BASE, ROUTER, TONE


@pytest.fixture(scope="module")
def config(store_of_costs: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    return load(configured(tmp_path_factory.mktemp("config"), store_of_costs))


@pytest.fixture
def ask(config: Config) -> Iterator[Ask]:
    with asking(config) as question:
        yield question


def test_amounts_are_those_of_the_rows(config: Config, ask: Ask) -> None:
    found = stored_cost(config, ask, 7, time.time())
    a_day = 86_400.0 / found.measured.span_s
    # Since the first row, which is as old as the tests before this one took.
    assert found.missing == "" and 6990 < found.measured.span_s < 9000
    by_name = {cost.adapter: cost for cost in found.measured.costs}
    assert set(by_name) == {BASE, ROUTER, TONE}
    # Three rounds of 2 s for both, half a second of scoring for the one; 30 CPU seconds of the models for all of it.
    of_models = {
        (name, part): used.cpu_s / a_day
        for name, cost in by_name.items()
        for part, used in cost.parts.items()
        if part in (Part.FILE_CANARIES, Part.SCORING)
    }
    assert sum(of_models.values()) == pytest.approx(30.0)
    assert of_models[ROUTER, Part.SCORING] == pytest.approx(30.0 * 0.5 / 6.5)
    assert of_models[ROUTER, Part.FILE_CANARIES] == pytest.approx(30.0 * 3.0 / 6.5)
    assert by_name[ROUTER].parts[Part.AGENT].cpu_s / a_day == pytest.approx(10.0)
    served = by_name[ROUTER].served
    assert served is not None and served.requests / a_day == pytest.approx(100.0)
    assert (served.input_tokens, served.output_tokens) == (20.0, 8.0)
    assert by_name[TONE].served is None and by_name[TONE].parts[Part.STORAGE].stored_bytes > 0


def test_without_the_right_to_see_sizes_the_rest_is_there(config: Config, ask: Ask) -> None:
    def without_sizes(name: str, params: Mapping[str, str]) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        if name == "stored":
            raise Refused("clickhouse", "too few rights", "SELECT on system.parts")
        return ask(name, params)

    found = stored_cost(config, without_sizes, 7, time.time())
    assert "system.parts" in found.missing
    assert all(Part.STORAGE not in cost.parts for cost in found.measured.costs)


def test_without_a_store_there_is_no_table(config: Config) -> None:
    def away(name: str, _: Mapping[str, str]) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        raise Retryable("clickhouse", name)

    with pytest.raises(Retryable):
        stored_cost(config, away, 7, time.time())


def test_of_nothing_there_is_nothing(config: Config) -> None:
    found: StoredCost = stored_cost(config, lambda *_: ((), ()), 7, time.time())
    assert all(not cost.parts and cost.served is None for cost in found.measured.costs)


def test_requests_for_a_base_have_its_name(tmp_path: Path) -> None:
    assert bases_of(load(configured(tmp_path))) == {ROUTER: BASE, TONE: BASE, BASE: BASE}
