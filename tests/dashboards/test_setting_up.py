"""What dashboards/README.md and the kustomization say about a cluster agrees with what the dashboards need."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from agent.store import client as store
from dashboards.annotations import INCIDENTS
from dashboards.generate import FOLDER
from dashboards.listed import BOARDS

README = (Path(__file__).resolve().parents[2] / "dashboards/README.md").read_text()
KUSTOMIZATION: dict[str, Any] = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
TABLES = re.compile(r"\b(?:FROM|JOIN)\s+(?:\w+\.)?(\w+)")


def statements() -> list[str]:
    (block,) = re.findall(r"```sql\n(.*?)```", README, re.DOTALL)
    return [" ".join(statement.split()) for statement in block.split(";") if statement.strip()]


def queries() -> Iterator[str]:
    yield INCIDENTS
    for board in BOARDS:
        yield from (choice.sql for choice in board.filters)
        yield from (panel.sql for panel in board.panels)


def read_by_panels(client: store.Client) -> set[str]:
    """Tables and views, those that views read too: a view asks with the rights of who asks it."""
    kept = dict(
        client.query(
            "SELECT name, as_select FROM system.tables WHERE database = currentDatabase() AND NOT startsWith(name, '.')"
        ).result_rows
    )
    found: set[str] = set()
    waiting = [name for sql in queries() for name in TABLES.findall(sql)]
    while waiting:
        name = waiting.pop()
        if name in kept and name not in found:
            found.add(name)
            waiting += TABLES.findall(kept[name])
    return found


def test_the_user_may_read_what_the_panels_read_and_no_more(told: store.Client) -> None:
    granted = [
        re.match(r"GRANT SELECT(?:\([^)]*\))? ON gapwatch\.(\w+) TO grafana$", line) for line in statements()[1:]
    ]
    assert all(granted)
    assert {match[1] for match in granted if match} == read_by_panels(told)
    for statement in statements():
        told.query(f"EXPLAIN AST {statement}")


@pytest.mark.parametrize(("table", "alias"), [("flips", "f"), ("goldens", "g"), ("interactions", "i")])
def test_of_tables_with_texts_it_may_read_the_columns_that_the_panels_name(
    told: store.Client, table: str, alias: str
) -> None:
    (columns,) = [
        set(re.findall(r"\w+", line.split("(")[1].split(")")[0])) for line in statements() if f".{table} " in line
    ]
    there = {row[0] for row in told.query(f"DESCRIBE {table}").result_rows}
    assert columns <= there
    assert not columns & {"prompt", "output", "golden_text", "present_text", "bytes"}
    named = {
        name for sql in queries() if f"FROM {table} AS {alias}" in sql for name in re.findall(rf"\b{alias}\.(\w+)", sql)
    }
    assert (named & there) <= columns
    key = told.query(f"SELECT sorting_key FROM system.tables WHERE name = '{table}' AND database = currentDatabase()")
    if table in ("goldens", "interactions"):
        assert set(key.result_rows[0][0].split(", ")) <= columns, "it is read with FINAL"


def test_the_data_source_of_the_page_is_a_provisioning_file() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    (source,) = yaml.safe_load(block)["datasources"]
    assert source["type"] == "grafana-clickhouse-datasource"
    assert (source["jsonData"]["defaultDatabase"], source["jsonData"]["username"]) == ("gapwatch", "grafana")


def test_every_dashboard_is_in_one_configmap_under_its_own_name() -> None:
    files = [name for each in KUSTOMIZATION["configMapGenerator"] for name in each["files"]]
    assert sorted(files) == sorted(file.name for file in FOLDER.glob("*.json"))
    assert all(each["files"] == [f"{each['name']}.json"] for each in KUSTOMIZATION["configMapGenerator"])
    assert KUSTOMIZATION["generatorOptions"]["labels"]["grafana_dashboard"] == "1"
    # What kubectl apply keeps in an annotation besides, 256 KiB at most.
    assert all((FOLDER / name).stat().st_size < 200_000 for name in files)


def test_kubectl_builds_the_configmaps_from_it() -> None:
    if not (kubectl := shutil.which("kubectl")):
        pytest.skip("there is no kubectl")
    built = subprocess.run([kubectl, "kustomize", str(FOLDER)], capture_output=True, text=True, check=True).stdout
    maps = list(yaml.safe_load_all(built))
    assert {item["metadata"]["name"] for item in maps} == {board.uid for board in BOARDS}
    for item in maps:
        assert kubernetes_validate.validate(item, "1.37", strict=True) == "1.37"
        assert item["metadata"]["labels"]["grafana_dashboard"] == "1"
        ((name, text),) = item["data"].items()
        assert json.loads(text) == json.loads((FOLDER / name).read_text())
