"""Series as SVG: where windows, lines and gaps run, and what is said to those who do not see them."""

from __future__ import annotations

import math
import re

import pytest

from agent.report.plots import HEIGHT, WIDTH, shown_span, timeline
from agent.report.windows import Span, Windows

WINDOWS = Windows((Span(0, 600),), Span(600, 1200))


def test_both_windows_are_shaded_and_a_gap_breaks_the_line() -> None:
    points = [(at, 1.0 if at < 600 else 0.0) for at in (0, 60, 120, 480, 610, 670)]
    svg = str(timeline(points, WINDOWS, math.nan, "retention"))
    assert '<rect class="healthy" x="0" width="450"' in svg and '<rect class="incident" x="450" width="450"' in svg
    (path,) = re.findall(r'class="line" d="([^"]*)"', svg)
    assert path.count("M") == 2 and path.count("L") == 4
    ys = [float(y) for y in re.findall(r",([\d.]+)h", path)]
    assert ys[0] < ys[-1] <= HEIGHT, "up is more"
    assert 'aria-label="retention: 1.00 on average in the healthy window, 0.00 on average in the incident"' in svg
    assert 'class="level"' not in svg


def test_the_level_is_in_the_picture_and_nothing_stored_is_said() -> None:
    svg = str(timeline([(10, 2.0), (20, math.nan)], WINDOWS, 21.5, "evidence"))
    (y,) = re.findall(r'class="level" d="M0,([\d.]+)H', svg)
    assert 0 < float(y) < HEIGHT / 2
    empty = str(timeline([(10, math.nan)], WINDOWS, 21.5, "<evidence>"))
    assert "nothing was stored" in empty and "&lt;evidence&gt;" in empty


@pytest.mark.parametrize(
    ("healthy", "incident", "begin"),
    [((), Span(50, 60), 50), ((Span(0, 20),), Span(50, 60), 0), ((Span(0, 90_000),), Span(90_000, 90_060), 88_200)],
)
def test_a_short_incident_after_a_long_time_has_a_width(
    healthy: tuple[Span, ...], incident: Span, begin: float
) -> None:
    assert shown_span(Windows(healthy, incident)) == Span(begin, incident.end)
    assert WIDTH * 60 / 1860 > 10
