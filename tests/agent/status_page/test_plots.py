"""Small plots: where lines run, and what they say to those who do not see them."""

from __future__ import annotations

import re

import pytest

from agent.status_page.plots import HEIGHT, evidence_plot, retention_plot

DAY, STRETCH, NOW = 86_400.0, 1800.0, 1_000_000.0


def line(values: list[float | None]) -> str:
    """The path of so many stretches up to now; None where one is missing."""
    began = NOW - STRETCH * len(values)
    points = [(began + i * STRETCH, value) for i, value in enumerate(values) if value is not None]
    found = re.search(r'class="line" d="([^"]*)"', str(retention_plot(tuple(points), NOW, DAY, STRETCH)))
    assert found
    return found[1]


def test_a_level_day_is_two_points_and_a_missing_stretch_breaks_the_line() -> None:
    assert line([1.0] * 40).count("L") == 1
    assert line([1.0, 1.0, None, None, 1.0, 1.0]).count("M") == 2
    assert line([1.0, None, 1.0]).count("h1") == 2


def test_up_is_more_and_what_is_beyond_the_edge_is_at_the_edge() -> None:
    heights = [float(y) for y in re.findall(r",(\d+)", line([1.0, 0.0, -9.0, 9.0]))]
    assert heights[0] < heights[1] < heights[2] == HEIGHT and heights[3] == 0.0


def test_the_words_have_the_lowest_and_the_last() -> None:
    points = [(NOW - 3600, 0.2), (NOW - 1800, 0.9), (NOW - 2 * DAY, -5.0)]
    assert 'aria-label="retention over the last day: lowest 0.20, last 0.90"' in str(
        retention_plot(tuple(sorted(points)), NOW, DAY, STRETCH)
    )
    assert "no round in the last day" in str(retention_plot((), NOW, DAY, STRETCH))


@pytest.mark.parametrize(("level", "width"), [(-3.0, 0), (0.0, 0), (10.75, 48), (21.5, 96), (900.0, 96)])
def test_evidence_fills_its_bar_at_the_threshold(level: float, width: int) -> None:
    plot = str(evidence_plot(level, 21.5))
    assert f'class="fill" width="{width}"' in plot and f"evidence {level:.1f} nats, pages at 21.5" in plot
