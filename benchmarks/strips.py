"""Shares over time as an SVG picture: one strip per subject, stacked, with marked moments across all of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from xml.sax.saxutils import escape

from detectors.records import Interval

LEFT, RIGHT, TOP, HEIGHT, GAP, WIDTH = 130, 30, 92, 84, 26, 900
LOW, HIGH = -0.1, 1.1  # of the vertical axis: margins for the size of a point
COLOURS = {"healthy": "#2e7d32", "suspect": "#f9a825", "degraded": "#c62828", "unmonitorable": "#757575"}
MEANING = {"degraded": " (an incident is open)", "unmonitorable": " (cannot be measured: files are changing)"}
STYLE = (
    "text { font: 13px system-ui, sans-serif; fill: #222 } .small { font-size: 11px; fill: #555 } "
    ".title { font-size: 15px; font-weight: 600 }"
)


@dataclass(frozen=True, slots=True)
class Point:
    """at: seconds; share: with its interval, None where nothing could be measured; status: names the colour"""

    at: float
    share: Interval | None
    status: str


@dataclass(frozen=True, slots=True)
class Strip:
    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment in seconds, in words."""

    at: float
    words: str
    colour: str


def strips(title: str, rows: Sequence[Strip], marks: Sequence[Mark], note: str) -> str:
    """The whole picture, a white background included."""
    last = max([point.at for row in rows for point in row.points] + [mark.at for mark in marks])
    height = TOP + len(rows) * (HEIGHT + GAP) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}</style>",
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text class="title" x="20" y="26">{escape(title)}</text>',
        *_legend(rows),
        *(line for number in range(len(rows)) for line in _ground(TOP + number * (HEIGHT + GAP))),
        *(line for mark in marks for line in _mark(mark, height - 44, last)),
        *(line for number, row in enumerate(rows) for line in _strip(row, TOP + number * (HEIGHT + GAP), last)),
        *_seconds(height - 30, last),
        f'<text class="small" x="20" y="{height - 8}">{escape(note)}</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _ground(top: float) -> Iterator[str]:
    yield f'<rect x="{LEFT}" y="{top}" width="{WIDTH - LEFT - RIGHT}" height="{HEIGHT}" fill="#fafafa"/>'
    for share in (0.0, 1.0):
        y = _y(share, top)
        yield f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
        yield f'<text class="small" x="{LEFT - 14}" y="{y + 4:.1f}">{share:.0f}</text>'


def _strip(row: Strip, top: float, last: float) -> Iterator[str]:
    yield f'<text x="20" y="{top + HEIGHT / 2 + 4:.0f}">{escape(row.name)}</text>'
    for before, after in pairwise(row.points):
        if before.share and after.share:
            ends = (_x(before.at, last), _x(after.at, last), _y(before.share.mean, top), _y(after.share.mean, top))
            yield '<line x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}" stroke="#999"/>'.format(*ends)
    for point in row.points:
        yield from _point(point, top, last)


def _point(point: Point, top: float, last: float) -> Iterator[str]:
    x, colour = _x(point.at, last), COLOURS[point.status]
    if point.share is None:
        y = top + HEIGHT / 2
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="9" fill="#fff" stroke="{colour}"/>'
        yield f'<text x="{x:.1f}" y="{y + 4.5:.1f}" text-anchor="middle" style="fill: {colour}">?</text>'
        return
    if math.isfinite(point.share.low):
        low, high = _y(point.share.low, top), _y(point.share.high, top)
        yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}" stroke="{colour}" stroke-width="2"/>'
    yield f'<circle cx="{x:.1f}" cy="{_y(point.share.mean, top):.1f}" r="4.5" fill="{colour}"/>'


def _mark(mark: Mark, bottom: float, last: float) -> Iterator[str]:
    x = _x(mark.at, last)
    side, anchor = (-4, "end") if x > WIDTH - 150 else (4, "start")
    yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 12}" y2="{bottom}" stroke="{mark.colour}"/>'
    place = f'x="{x + side:.1f}" y="{TOP - 8}" text-anchor="{anchor}" style="fill: {mark.colour}"'
    yield f'<text class="small" {place}>{escape(mark.words)}</text>'


def _legend(rows: Sequence[Strip]) -> Iterator[str]:
    """The verdicts that occur, by colour."""
    x = 20
    for status in [name for name in COLOURS if any(p.status == name for row in rows for p in row.points)]:
        words = f"{status}{MEANING.get(status, '')}"
        sign = "?" if status == "unmonitorable" else "●"
        yield f'<text x="{x}" y="52"><tspan style="fill: {COLOURS[status]}">{sign}</tspan> {words}</text>'
        x += 34 + 7 * len(words)


def _seconds(y: float, last: float) -> Iterator[str]:
    for at in range(0, int(last) + 1, 20):
        yield f'<text class="small" x="{_x(at, last):.1f}" y="{y}" text-anchor="middle">{at} s</text>'


def _x(at: float, last: float) -> float:
    return LEFT + 16 + at / last * (WIDTH - LEFT - RIGHT - 32)


def _y(share: float, top: float) -> float:
    return top + HEIGHT * (HIGH - share) / (HIGH - LOW)
