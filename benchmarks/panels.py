"""What a panel of a dashboard answered, as a part of an SVG picture: table, figures, lines, bars, states over time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any
from xml.sax.saxutils import escape

from dashboards.board import STATUSES, Panel, Shape

Box = tuple[float, float, float, float]  # left, top, width, height in pixels
Span = tuple[float, float]  # of time, in seconds
COLOURS = ("#1f60c4", "#e0752d", "#2e7d32", "#8f3bb8", "#b8860b", "#00838f", "#c62828", "#5d4037", "#455a64", "#ad1457")
OF_STATUS = {"healthy": "#2e7d32", "unmonitorable": "#8e8e8e", "suspect": "#f9a825", "degraded": "#c62828"}
LETTER, LINE, LONGEST = 6.7, 16, 42  # width of a letter and height of a line in pixels; letters of a cell
LEGEND, AXIS, HEAD = 18, 52, 26


@dataclass(frozen=True, slots=True)
class Answer:
    """columns: names; times: those of them that are times, in seconds since 1970; rows: one list a row"""

    columns: Sequence[str]
    times: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Series:
    name: str
    colour: str
    points: tuple[tuple[float, float], ...]


def drawn(panel: Panel, answer: Answer, box: Box, span: Span) -> list[str]:
    """The panel in its box, with its question above."""
    left, top, width, height = box
    inner = (left + 10, top + HEAD, width - 20, height - HEAD - 8)
    body = _SHAPES[panel.shape](panel, answer, inner, span) if answer.rows else _nothing(inner)
    return [
        f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="#fff" stroke="#d8d9da"/>',
        f'<text class="head" x="{left + 10}" y="{top + 18}">{escaped(_cut(panel.question, width - 20))}</text>',
        *body,
    ]


def escaped(text: str) -> str:
    return escape(text, {'"': "&quot;"})


def _nothing(box: Box) -> Iterator[str]:
    left, top, width, height = box
    place = f'x="{left + width / 2:.0f}" y="{top + height / 2:.0f}" text-anchor="middle"'
    yield f'<text class="small" {place}>No data</text>'


def _table(panel: Panel, answer: Answer, box: Box, _: Span) -> Iterator[str]:
    left, top, width, height = box
    shown = answer.rows[: max(1, int((height - LINE) // LINE) - (len(answer.rows) * LINE > height - LINE))]
    cells = [
        [_cell(panel, answer, name, value) for name, value in zip(answer.columns, row, strict=True)] for row in shown
    ]
    wanted = [
        (min(LONGEST, max(len(name) + 1, *(len(row[i]) for row in cells))) + 2) * LETTER
        for i, name in enumerate(answer.columns)
    ]
    x = left
    for i, name in enumerate(answer.columns):
        room = min(wanted[i], left + width - x)
        if room < 5 * LETTER:
            break
        yield f'<text class="head" x="{x:.0f}" y="{top + 11}">{escaped(_cut(name, room))}</text>'
        for number, row in enumerate(cells):
            colour = f' style="fill: {OF_STATUS[row[i]]}"' if row[i] in OF_STATUS else ""
            y = top + 11 + (number + 1) * LINE
            yield f'<text x="{x:.0f}" y="{y}"{colour}>{escaped(_cut(row[i], room - LETTER))}</text>'
        x += wanted[i]
    if len(shown) < len(answer.rows):
        y = top + 11 + (len(shown) + 1) * LINE
        yield f'<text class="small" x="{left}" y="{y}">and {len(answer.rows) - len(shown)} more</text>'


def _numbers(panel: Panel, answer: Answer, box: Box, _: Span) -> Iterator[str]:
    left, top, width, height = box
    across = width > 90 * len(answer.columns)
    step = (width if across else height) / len(answer.columns)
    for i, (name, value) in enumerate(zip(answer.columns, answer.rows[0], strict=True)):
        is_bad = panel.threshold is not None and value is not None and value >= panel.threshold
        x, y = (left + (i + 0.5) * step, top + height / 2) if across else (left + width / 2, top + (i + 0.5) * step)
        colour = ' style="fill: #c62828"' if is_bad else ""
        text = escaped(_cell(panel, answer, name, value) or "-")
        yield f'<text class="figure" x="{x:.0f}" y="{y:.0f}" text-anchor="middle"{colour}>{text}</text>'
        yield f'<text class="small" x="{x:.0f}" y="{y + 18:.0f}" text-anchor="middle">{escaped(name)}</text>'


def _lines(panel: Panel, answer: Answer, box: Box, span: Span) -> Iterator[str]:
    series, plot = _series(answer), _plot(box)
    values = [value for each in series for _, value in each.points] + ([panel.threshold] if panel.threshold else [])
    low, high = min(0.0, *values), max(values)
    yield from _ground(panel, plot, span, (low, high))
    for each in series:
        corners = " ".join(f"{_x(at, plot, span):.1f},{_y(value, plot, (low, high)):.1f}" for at, value in each.points)
        yield f'<polyline points="{corners}" fill="none" stroke="{each.colour}" stroke-width="1.5"/>'
        for at, value in each.points:
            place = f'cx="{_x(at, plot, span):.1f}" cy="{_y(value, plot, (low, high)):.1f}"'
            yield f'<circle {place} r="2" fill="{each.colour}"/>'
    if panel.threshold is not None:
        y = _y(panel.threshold, plot, (low, high))
        ends = f'x1="{plot[0]}" x2="{plot[0] + plot[2]}" y1="{y:.1f}" y2="{y:.1f}"'
        yield f'<line {ends} stroke="#c62828" stroke-dasharray="6 4"/>'
    yield from _legend(series, box)


def _bars(panel: Panel, answer: Answer, box: Box, span: Span) -> Iterator[str]:
    series, plot = _series(answer), _plot(box)
    stacked: dict[float, float] = {}
    for each in series:
        for at, value in each.points:
            stacked[at] = stacked.get(at, 0.0) + value
    # A bar of a whole day or minute begins before a short window does.
    edges = (min(span[0], *stacked), max(span[1], *stacked))
    steps = [after - before for before, after in pairwise(sorted(stacked))]
    wide = max(2.0, min(steps or [edges[1] - edges[0]]) / (edges[1] - edges[0]) * plot[2] * 0.8)
    scale = (0.0, max(stacked.values()) or 1.0)
    yield from _ground(panel, plot, edges, scale)
    below = dict.fromkeys(stacked, 0.0)
    for each in series:
        for at, value in each.points:
            top, bottom = _y(below[at] + value, plot, scale), _y(below[at], plot, scale)
            below[at] += value
            x = _x(at, plot, edges)
            room = min(wide, max(2.0, plot[0] + plot[2] - x))
            place = f'x="{x:.1f}" y="{top:.1f}" width="{room:.1f}" height="{bottom - top:.1f}"'
            yield f'<rect {place} fill="{each.colour}"/>'
    yield from _legend(series, box)


def _states(_: Panel, answer: Answer, box: Box, span: Span) -> Iterator[str]:
    left, top, width, height = box
    series = _series(answer)
    names, plot = 120, (left + 120, top, width - 120, height - 36)
    tall = min(40.0, plot[3] / len(series))
    for row, each in enumerate(series):
        y = top + row * tall
        yield f'<text x="{left}" y="{y + tall / 2 + 4:.0f}">{escaped(_cut(each.name, names))}</text>'
        ends = [at for at, _ in each.points[1:]] + [span[1]]
        for (at, value), until in zip(each.points, ends, strict=True):
            status = STATUSES[int(value)]
            x, right = _x(max(at, span[0]), plot, span), _x(until, plot, span)
            place = f'x="{x:.1f}" y="{y + 3:.1f}" width="{max(1.0, right - x):.1f}" height="{tall - 6:.1f}"'
            yield f'<rect {place} fill="{OF_STATUS[status]}"/>'
    yield from _clock(plot, span)
    x = left + 240.0
    for status, colour in OF_STATUS.items():
        yield f'<text x="{x:.0f}" y="{top + height}"><tspan style="fill: {colour}">■</tspan> {status}</text>'
        x += (len(status) + 4) * LETTER


_SHAPES = {
    Shape.TABLE: _table,
    Shape.NUMBERS: _numbers,
    Shape.LINES: _lines,
    Shape.BARS: _bars,
    Shape.STATES: _states,
}


def _series(answer: Answer) -> list[Series]:
    """By the second column, or one for each column after the first."""
    points: dict[str, list[tuple[float, float]]] = {}
    for at, *values in answer.rows:
        named = [values] if answer.columns[1] == "series" else zip(answer.columns[1:], values, strict=True)
        for name, value in named:
            if value is not None:
                points.setdefault(name, []).append((at, float(value)))
    return [Series(name, COLOURS[i % len(COLOURS)], tuple(points[name])) for i, name in enumerate(sorted(points))]


def _plot(box: Box) -> Box:
    left, top, width, height = box
    return left + AXIS, top + 6, width - AXIS, height - 24 - LEGEND


def _ground(panel: Panel, plot: Box, span: Span, scale: Span) -> Iterator[str]:
    left, _, width, _ = plot
    for share in (0.0, 0.5, 1.0):
        value = scale[0] + share * (scale[1] - scale[0])
        y = _y(value, plot, scale)
        yield f'<line x1="{left}" x2="{left + width}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e3e3e3"/>'
        label = escaped(_figure(_rounded(value, scale), panel.unit))
        yield f'<text class="small" x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>'
    yield from _clock(plot, span)


def _rounded(value: float, scale: Span) -> float:
    """To a thousandth of what the axis spans: what is near 0 on it is 0."""
    span = scale[1] - scale[0]
    return value if span <= 0 else round(value, 3 - math.floor(math.log10(span))) + 0.0


def _clock(plot: Box, span: Span) -> Iterator[str]:
    left, top, width, height = plot
    for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        at = datetime.fromtimestamp(span[0] + share * (span[1] - span[0]), UTC)
        place = f'x="{left + share * width:.0f}" y="{top + height + 14:.0f}" text-anchor="{anchor}"'
        yield f'<text class="small" {place}>{at:%H:%M:%S}</text>'


def _legend(series: Sequence[Series], box: Box) -> Iterator[str]:
    left, top, width, height = box
    x = left + AXIS
    for each in series:
        room = (len(each.name) + 4) * LETTER
        if x + room > left + width:
            yield f'<text class="small" x="{x:.0f}" y="{top + height}">...</text>'
            return
        sign = f'<tspan style="fill: {each.colour}">■</tspan>'
        yield f'<text x="{x:.0f}" y="{top + height}">{sign} {escaped(each.name)}</text>'
        x += room


def _x(at: float, plot: Box, span: Span) -> float:
    return plot[0] + (at - span[0]) / (span[1] - span[0]) * plot[2]


def _y(value: float, plot: Box, scale: Span) -> float:
    return plot[1] + plot[3] * (1 - (value - scale[0]) / ((scale[1] - scale[0]) or 1.0))


def _cell(panel: Panel, answer: Answer, name: str, value: Any) -> str:
    if value is None:
        return ""
    if name in answer.times:
        return f"{datetime.fromtimestamp(value, UTC):%Y-%m-%d %H:%M:%S}"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _figure(float(value), panel.units.get(name, panel.unit))
    return " ".join(str(value).split())


def _figure(value: float, unit: str) -> str:
    if not math.isfinite(value):
        return ""
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    suffix = {"s": " s", "m": " min"}.get(unit, "")
    return (f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1000 else f"{value:.3g}") + suffix


def _cut(text: str, pixels: float) -> str:
    fit = max(1, int(pixels / LETTER))
    return text if len(text) <= fit else f"{text[: fit - 1]}…"
