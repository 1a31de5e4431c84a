"""What is committed is what the generator writes; both models hold the same panels, and what links lead to is there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import dashboard, dashboardv2

from agent.store import client as store
from dashboards import generate
from dashboards.board import Dashboard
from dashboards.generate import FOLDER
from dashboards.listed import BOARDS
from dashboards.placing import placed

ROOT = Path(__file__).resolve().parents[2]
FILES = {name: (FOLDER / name) for name, _ in generate.files(generate.RUNBOOKS)}


def held(board: Dashboard, folder: str = "") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / folder / f"{board.uid}.json").read_text())
    return found


@pytest.fixture(params=BOARDS, ids=lambda board: board.uid)
def board(request: pytest.FixtureRequest) -> Dashboard:
    chosen: Dashboard = request.param
    return chosen


def test_what_is_committed_is_what_the_generator_writes() -> None:
    assert {name: file.read_text() for name, file in FILES.items()} == dict(generate.files(generate.RUNBOOKS))
    assert set(FOLDER.rglob("*.json")) == set(FILES.values())


def test_both_models_hold_the_same_panels_in_the_same_places(board: Dashboard) -> None:
    one, two = held(board), held(board, "v2")["spec"]
    items = {item["spec"]["element"]["name"]: item["spec"] for item in two["layout"]["spec"]["items"]}
    assert [panel["id"] for panel in one["panels"]] == list(range(1, len(board.panels) + 1))
    for (panel, (x, y)), drawn in zip(placed(board.panels), one["panels"], strict=True):
        element, item = two["elements"][panel.name]["spec"], items[panel.name]
        assert drawn["gridPos"] == {"x": x, "y": y, "w": panel.width, "h": panel.height}
        assert (item["x"], item["y"], item["width"], item["height"]) == (x, y, panel.width, panel.height)
        asked = element["data"]["spec"]["queries"][0]["spec"]["query"]
        (target,) = drawn["targets"]
        assert panel.sql == target["rawSql"] == asked["spec"]["rawSql"]
        assert (drawn["type"], drawn["title"]) == (element["vizConfig"]["group"], element["title"])
        assert drawn["fieldConfig"] == element["vizConfig"]["spec"]["fieldConfig"]
        assert target["datasource"]["type"] == asked["group"] == "grafana-clickhouse-datasource"


def test_the_sdks_own_models_read_what_is_written(board: Dashboard) -> None:
    """A field of a wrong name would be lost on the way."""
    register_default_plugins()
    assert dashboard.Dashboard.from_json(held(board)).uid == board.uid
    whole = held(board, "v2")
    assert (whole["apiVersion"], whole["kind"], whole["metadata"]["name"]) == (
        "dashboard.grafana.app/v2",
        "Dashboard",
        board.uid,
    )
    assert len(dashboardv2.Dashboard.from_json(whole["spec"]).elements) == len(board.panels)


def test_no_panel_lies_on_another_or_beyond_the_edge(board: Dashboard) -> None:
    cells = [
        (x + dx, y + dy)
        for panel, (x, y) in placed(board.panels)
        for dx in range(panel.width)
        for dy in range(panel.height)
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


def test_names_are_unique_and_links_lead_to_a_dashboard_or_a_runbook(board: Dashboard) -> None:
    assert len({panel.name for panel in board.panels}) == len(board.panels)
    for link in (link for panel in board.panels for link in panel.links.values()):
        uid = re.match(r"/d/([\w-]+)\?", link.url)
        assert link.url.startswith("${runbooks}/") or (uid and uid[1] in {other.uid for other in BOARDS}), link.url


def test_every_command_that_a_panel_names_is_there(board: Dashboard) -> None:
    told = " ".join(panel.about for panel in board.panels)
    assert set(re.findall(r"gapwatch query (\w+)", told)) <= set(store.query_names())
    pages = {page.stem for page in (ROOT / "dashboards/runbooks").glob("*.md")}
    assert set(re.findall(r"gapwatch runbook (\w+)", told)) <= pages


def test_the_address_of_the_runbooks_is_that_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = "https://wiki.example.org/runbooks"
    monkeypatch.setattr("sys.argv", ["generate", "--runbooks", address, "--into", str(tmp_path)])
    generate.main()
    assert {file.name for file in tmp_path.glob("*.json")} == {file.name for file in FOLDER.glob("*.json")}
    for file in tmp_path.rglob("*.json"):
        assert (address in file.read_text(), generate.RUNBOOKS in file.read_text()) == (True, False)
