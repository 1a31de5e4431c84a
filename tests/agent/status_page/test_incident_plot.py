"""A picture of an incident: drawn is what is stored, names are escaped, and a store is not asked at each look."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from agent.clock import HandClock
from agent.errors import Retryable
from agent.status_page.incident_plot import FRESH_S, IncidentPlots, Point, drawn, points_of
from agent.store import client as store
from tests.agent import findings
from tests.agent.findings import BASE, NOW, ROUTER
from tests.agent.store.stored import embedded, insert

COLUMNS = ["at", "log_e", "log_threshold", "retention"]
ROWS = [("2026-09-21 14:00:00", 0.5, None, 1.0), ("2026-09-21 14:30:00", 30.0, 16.4, 0.02)]
SVG = "{http://www.w3.org/2000/svg}"


def picture(points: list[Point], title: str = "router") -> ElementTree.Element:
    return ElementTree.fromstring(drawn(title, points))


def paths(root: ElementTree.Element, kind: str) -> list[str]:
    return [path.attrib["d"] for path in root.iter(f"{SVG}path") if path.attrib["class"] == kind]


def test_evidence_is_drawn_against_what_a_page_takes_and_retention_against_its_base() -> None:
    root = picture(points_of(COLUMNS, ROWS))
    evidence, retention = paths(root, "line")
    assert evidence.count("L") == retention.count("L") == 1
    heights = [float(place.split(",")[1]) for place in evidence[1:].split("h")[0].split("L")]
    (level,) = (float(path.split(",")[1].split("H")[0]) for path in paths(root, "level"))
    assert heights[0] > level > heights[1], "y runs downwards: the alarm is above the level, the healthy round below it"
    words = root.find(f"{SVG}title")
    assert words is not None and words.text == (
        "router: evidence 30.0 nats at last, 30.0 at most; a page takes 16.4; retention 0.02 at last, 0.02 at least"
    )


def test_times_of_the_store_are_utc() -> None:
    aware = datetime(2026, 9, 21, 14, 0, tzinfo=UTC)
    assert points_of(COLUMNS, [(aware, 0, 0, 0)])[0].at == points_of(COLUMNS, ROWS)[0].at == aware.timestamp()


@pytest.mark.parametrize("title", ["<script>alert(1)</script>", 'a "b" & c', "übersetzer 🐄"])
def test_whatever_a_name_is_the_picture_is_one(title: str) -> None:
    texts = [text.text for text in picture([Point(0.0, 1.0, math.nan, math.nan)], title).iter(f"{SVG}text")]
    assert texts[0] == title


def test_what_nothing_is_known_of_says_so() -> None:
    unknown = Point(0.0, math.nan, math.nan, math.nan)
    for points in ([], [unknown]):
        assert "nothing was stored" in drawn("router", points)


def test_only_what_is_configured_has_one_and_who_asks_often_asks_no_store() -> None:
    clock, queries = HandClock(), []

    def query(name: str, params: Mapping[str, str]) -> tuple[list[str], list[tuple[Any, ...]]]:
        queries.append((name, params["subject"], params["cluster"]))
        if len(queries) == 3:
            raise Retryable("clickhouse", "connection refused")
        return COLUMNS, list(ROWS)

    plots = IncidentPlots(query, "prod", [ROUTER, BASE], clock)
    assert plots.svg("' OR 1 --") is None and not queries
    assert plots.svg(ROUTER) == plots.svg(ROUTER)
    clock.advance(FRESH_S)
    plots.svg(ROUTER)
    assert queries == [("course", ROUTER, "prod")] * 2
    with pytest.raises(Retryable):
        plots.svg(BASE)


@embedded
def test_it_is_of_what_is_stored(migrated: store.Client) -> None:
    alarm = findings.alarm(NOW - 60)
    insert(migrated, *alarm.evidence, alarm)

    def query(name: str, params: Mapping[str, str]) -> tuple[list[str], list[tuple[Any, ...]]]:
        columns, rows = store.run_query(migrated, name, dict(params))
        return list(columns), [tuple(row) for row in rows]

    svg = IncidentPlots(query, "prod", [ROUTER], HandClock()).svg(ROUTER)
    assert svg is not None and b"evidence 93.9 nats at last" in svg and b"a page takes 21.5" in svg
