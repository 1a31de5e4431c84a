"""The pictures of the dashboards' data show what the panels' SQL answered, and say that they are no screenshots."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from benchmarks import dashboard_pictures as pictures
from benchmarks.panels import Answer, drawn
from dashboards.board import Dashboard, Panel, Shape
from dashboards.listed import BOARDS

RUN = pictures.read(pictures.RUN)
BOX, SPAN = (0.0, 0.0, 472.0, 200.0), (1000.0, 2000.0)


def words(svg: str) -> str:
    return " ".join("".join(ElementTree.fromstring(svg).itertext()).split())


@pytest.fixture(params=BOARDS, ids=lambda board: board.uid)
def board(request: pytest.FixtureRequest) -> Dashboard:
    chosen: Dashboard = request.param
    return chosen


def test_the_pictures_are_what_the_recorded_answers_say(board: Dashboard) -> None:
    assert (pictures.FOLDER / f"{board.uid}.svg").read_text() == pictures.picture(board, RUN)
    assert set(RUN.answers[board.uid]) == {panel.name for panel in board.panels}


def test_a_picture_says_what_it_is_and_loads_nothing(board: Dashboard) -> None:
    svg = (pictures.FOLDER / f"{board.uid}.svg").read_text()
    assert not re.search(r"(href|src)=|url\(|@import", svg)
    assert "not a screenshot of Grafana. gapwatch demo on " in words(svg)
    assert all(panel.question.split(",")[0] in words(svg) for panel in board.panels)


def test_a_table_shows_values_in_their_units_and_how_many_more_there_are() -> None:
    panel = Panel("p", "Which?", "", "", height=8, units={"kept": "percentunit"})
    rows = [[f"<adapter {i}>", 0.5, None, 1_790_000_000.0] for i in range(30)]
    svg = drawn(panel, Answer(("subject", "kept", "loss", "at"), ("at",), rows), BOX, SPAN)
    text = words(f"<g>{''.join(svg)}</g>")
    assert "<adapter 0>" in text and "50 %" in text and "2026-09-21 14:13:20" in text
    shown = text.count("<adapter")
    assert text.endswith(f"and {30 - shown} more") and 0 < shown < 30


def test_a_line_lies_where_its_values_are() -> None:
    panel = Panel("p", "How much?", "", " AS series", Shape.LINES, threshold=2.0)
    answer = Answer(
        ("time", "series", "value"), ("time",), [[1000.0, "a", 0.0], [1500.0, "a", 1.0], [2000.0, "a", 2.0]]
    )
    svg = "".join(drawn(panel, answer, BOX, SPAN))
    (corners,) = re.findall(r'points="([^"]*)"', svg)
    (x0, y0), (x1, y1), (x2, y2) = (map(float, corner.split(",")) for corner in corners.split())
    assert [x1 - x0, y1 - y0] == pytest.approx([x2 - x1, y2 - y1])
    (threshold,) = re.findall(r'y1="([\d.]+)" y2="[\d.]+" stroke="#c62828"', svg)
    assert float(threshold) == y2


def test_bars_are_stacked_and_a_state_lasts_until_the_next() -> None:
    times = Answer(("time", "series", "n"), ("time",), [[1000.0, "a", 1], [1000.0, "b", 3]])
    svg = "".join(drawn(Panel("p", "", "", " AS series", Shape.BARS), times, BOX, SPAN))
    heights = [float(tall) for tall in re.findall(r'height="([\d.]+)" fill="#(?:1f60c4|e0752d)"', svg)]
    assert heights[1] == pytest.approx(3 * heights[0], abs=0.2)
    states = Answer(("time", "series", "state"), ("time",), [[1000.0, "a", 0], [1250.0, "a", 3]])
    svg = "".join(drawn(Panel("p", "", "", " AS series", Shape.STATES), states, BOX, SPAN))
    good, bad = re.findall(r'width="([\d.]+)" height="[\d.]+" fill="#(?:2e7d32|c62828)"', svg)
    assert float(bad) == pytest.approx(3 * float(good), abs=0.2)


def test_what_is_near_0_on_an_axis_is_0() -> None:
    panel = Panel("p", "Kept?", "", "SELECT 1 AS series", Shape.LINES, unit="percentunit")
    answer = Answer(["time", "series", "kept"], ["time"], [[1000.0, "a", 1.0], [2000.0, "a", -0.000222]])
    svg = words(f"<svg>{''.join(drawn(panel, answer, BOX, SPAN))}</svg>")
    assert "0 %50 %100 %" in svg and "-0.0" not in svg
