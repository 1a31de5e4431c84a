"""Do a day's amounts follow from the rows, whole process times included, and does every second go to somebody once?"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import pytest

from agent.economics.measured_cost import measured_cost, rows_of
from detectors.economics.own_cost import Part, Used

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
BASES = {"router": "m", "tone": "m", "m": "m"}


def spent(adapter: str, part: str, seconds: float, scored: float = 0.0, processed: float = 0.0) -> dict[str, Any]:
    first = datetime(2026, 11, 28, 12, tzinfo=UTC)
    row = {"adapter": adapter, "base": "m" if adapter else "", "part": part, "first_at": first, "seconds": seconds}
    return row | {"tokens_scored": scored, "tokens_processed": processed}


def served(adapter: str, requests: int, prompt: float | None = 30.0, output: float | None = 10.0) -> dict[str, Any]:
    first = "2026-11-28T18:00:00+00:00"  # as a running agent answers, in JSON
    return {
        "adapter": adapter,
        "first_at": first,
        "requests": requests,
        "prompt_tokens": prompt,
        "output_tokens": output,
    }


def stored(adapter: str, table: str, size: float) -> dict[str, Any]:
    return {"adapter": adapter, "table": table, "bytes_stored": size}


SPENT = [
    spent("router", "file canaries", 60.0, 100, 600),
    spent("tone", "file canaries", 20.0, 50, 300),
    spent("router", "scoring", 20.0, 40, 40),
    spent("tone", "engine canaries", 500.0, 100, 400),
    spent("", "agent", 90.0),
    spent("", "models", 200.0),
]


def test_a_day_of_the_models_is_shared_out_by_the_seconds_that_each_part_had() -> None:
    found = measured_cost(
        SPENT, [served("router", 300), served("m", 100)], [], BASES, on_gpu=False, now=NOW.timestamp()
    )
    assert found.span_s == 86_400.0
    by_name = {cost.adapter: cost for cost in found.costs}
    assert list(by_name) == ["m", "router", "tone"]
    router, tone = by_name["router"].parts, by_name["tone"].parts
    assert router[Part.FILE_CANARIES] == Used(cpu_s=120.0) and router[Part.SCORING] == Used(cpu_s=40.0)
    assert tone[Part.FILE_CANARIES] == Used(cpu_s=40.0)
    assert tone[Part.ENGINE_CANARIES] == Used(input_tokens=300.0, output_tokens=100.0)
    # The agent's by the requests: nobody asked for tone.
    assert router[Part.AGENT] == Used(cpu_s=67.5) and by_name["m"].parts == {Part.AGENT: Used(cpu_s=22.5)}
    assert sum(used.cpu_s for cost in found.costs for used in cost.parts.values()) == pytest.approx(290.0)
    assert by_name["router"].served is not None and by_name["router"].served.requests == 300.0
    assert by_name["tone"].served is None


def test_on_a_card_its_seconds_are_counted_beside_those_of_the_cores() -> None:
    found = measured_cost(SPENT, [], [], BASES, on_gpu=True, now=NOW.timestamp())
    router = next(cost for cost in found.costs if cost.adapter == "router").parts
    assert router[Part.FILE_CANARIES] == Used(gpu_s=60.0, cpu_s=120.0)


def test_without_measured_seconds_of_the_process_each_second_is_one_of_a_core() -> None:
    rows = [row for row in SPENT if row["part"] != "models"]
    found = measured_cost(rows, [], [], BASES, on_gpu=False, now=NOW.timestamp())
    router = next(cost for cost in found.costs if cost.adapter == "router").parts
    assert router[Part.FILE_CANARIES] == Used(cpu_s=60.0)


def test_a_process_that_only_waited_is_shared_out_equally() -> None:
    found = measured_cost([spent("", "models", 30.0)], [], [], BASES, on_gpu=False, now=NOW.timestamp())
    assert {cost.adapter: cost.parts for cost in found.costs} == {
        name: {Part.MODELS: Used(cpu_s=10.0)} for name in BASES
    }


def test_tables_without_an_adapter_are_shared_out_by_what_the_others_hold() -> None:
    rows = [stored("router", "rounds", 300.0), stored("tone", "rounds", 100.0), stored("", "heartbeats", 40.0)]
    found = measured_cost([], [], rows, BASES, on_gpu=False, now=NOW.timestamp())
    sizes = {cost.adapter: cost.parts[Part.STORAGE].stored_bytes for cost in found.costs if cost.parts}
    assert sizes == {"router": 330.0, "tone": 110.0}


def test_of_a_short_time_no_day_is_made_and_what_no_record_told_is_not_a_number() -> None:
    just_now = spent("router", "file canaries", 2.0) | {"first_at": NOW}
    found = measured_cost(
        [just_now], [served("router", 5, None, None) | {"first_at": NOW}], [], BASES, False, NOW.timestamp()
    )
    assert found.span_s == 3600.0
    router = next(cost for cost in found.costs if cost.adapter == "router")
    assert router.parts[Part.FILE_CANARIES].cpu_s == 48.0
    assert router.served is not None and math.isnan(router.served.input_tokens)


def test_rows_are_of_one_cluster() -> None:
    columns, rows = ("cluster", "adapter"), [("prod", "a"), ("test", "b")]
    assert rows_of(columns, rows, "prod") == [{"cluster": "prod", "adapter": "a"}]
    assert len(rows_of(("adapter",), [("a",)], "prod")) == 1
