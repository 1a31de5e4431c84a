"""gapwatch query: options become the question's own parameters, and rows a table, JSON or CSV."""

from __future__ import annotations

import csv
import io
import json
import math
import time
from pathlib import Path

import pytest
import yaml

from agent.cli.query import QueryOptions, answer, parameters
from agent.errors import Refused
from agent.store import client as store
from agent.store import migrations
from agent.terminal.console import console, sparkline
from tests.agent import findings
from tests.agent.findings import ROUTER
from tests.agent.store.stored import insert

NOW = 1_790_000_000.0


@pytest.mark.parametrize(
    ("name", "wish", "wanted"),
    [
        ("retention", QueryOptions(adapter=ROUTER, since="90m"), {"subject": ROUTER, "hours": "2"}),
        ("incidents", QueryOptions(since="36h"), {"days": "2"}),
        ("evidence", QueryOptions(since="2026-09-21T12:13:20"), {"hours": "2"}),
        ("degraded", QueryOptions(params=("cluster=prod",), since="0s"), {"cluster": "prod", "hours": "1"}),
    ],
)
def test_an_adapter_and_a_time_are_parameters_of_the_question(
    name: str, wish: QueryOptions, wanted: dict[str, str]
) -> None:
    assert parameters(name, wish, NOW) == wanted


@pytest.mark.parametrize(
    ("name", "wish", "named"),
    [
        ("degraded", QueryOptions(adapter=ROUTER), "--adapter"),
        ("since", QueryOptions(since="6h"), "--since"),
        ("retention", QueryOptions(since="yesterday"), "a time such as"),
        ("no_such", QueryOptions(), "degraded"),
    ],
)
def test_what_a_question_does_not_have_is_refused(name: str, wish: QueryOptions, named: str) -> None:
    with pytest.raises(Refused, match=named):
        parameters(name, wish, NOW)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([0.0, 0.5, 1.0, math.nan, None], "▁▅█··"),
        ([0.98, 0.99], "██"),
        ([0.0, 7.0, 14.0], "▁▅█"),
        ([-1.0, 1.0], "▁█"),
        ([math.nan], "·"),
        ([], ""),
    ],
)
def test_a_series_in_one_line_from_nothing_to_its_highest(values: list[float | None], wanted: str) -> None:
    assert sparkline(values) == wanted


def test_a_long_series_is_drawn_by_means() -> None:
    assert sparkline([0.0] * 48 + [1.0] * 48) == "▁" * 24 + "█" * 24


def test_one_question_as_table_json_and_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {
        "models": [{"name": "m", "served": {"url": "http://127.0.0.1:9"}, "adapters": [{"name": ROUTER}]}],
        "clickhouse": {"dsn": f"chdb://{tmp_path / 'store'}"},
        "telemetry": {"prometheus_port": 0, "control_port": 1},
    }
    config = tmp_path / "gapwatch.yaml"
    config.write_text(yaml.safe_dump(settings))
    client = store.connect(settings["clickhouse"]["dsn"])  # type: ignore[index]
    migrations.migrate(client)
    insert(client, findings.base_round(0, time.time(), 1.0))
    client.close()
    wish = QueryOptions(adapter=ROUTER, since="3h")
    with console.capture() as printed:
        assert answer(config, "retention", wish, json=False) == 0
    assert "··█" in printed.get() or "·█·" in printed.get()  # an hour may have begun since
    assert answer(config, "retention", wish, json=True) == 0
    report = json.loads(capsys.readouterr().out)
    (row,) = report["rows"]
    series = row[report["columns"].index("retention_by_hour")]
    assert answer(config, "retention", QueryOptions(adapter=ROUTER, since="3h", csv=True), json=False) == 0
    (line,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert line["adapter"] == ROUTER and float(line["lowest"]) == pytest.approx(0.98)
    assert json.loads(line["retention_by_hour"]) == series and len(series) == 3
    with pytest.raises(Refused, match="one of the two"):
        answer(config, "retention", QueryOptions(csv=True), json=True)
