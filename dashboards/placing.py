"""Where the panels of a dashboard lie on Grafana's grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dashboards.board import Panel

COLUMNS = 24


def placed(panels: Sequence[Panel]) -> Iterator[tuple[Panel, tuple[int, int]]]:
    """Each panel with its left and upper edge: from left to right, and a new row where it does not fit any more."""
    x = y = tallest = 0
    for panel in panels:
        if x + panel.width > COLUMNS:
            x, y, tallest = 0, y + tallest, 0
        yield panel, (x, y)
        x, tallest = x + panel.width, max(tallest, panel.height)
