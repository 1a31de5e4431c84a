"""A series over both windows as inline SVG, with its meaning in words for those who do not see it. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from markupsafe import Markup

from agent.report.windows import Span, Windows, utc

WIDTH, HEIGHT = 900.0, 150.0
# How much of what was before is drawn, in lengths of the incident, and from what length on.
MOST_BEFORE, SHORTEST_S = 3.0, 600.0
# A point further than so many usual steps from the one before begins a line of its own.
GAP_STEPS = 2.5


def timeline(points: Sequence[tuple[float, float]], windows: Windows, level: float, name: str) -> Markup:
    """The series through the incident and as much as MOST_BEFORE of its length before it; both windows are shaded.

    points: (when, value), in order of time, a value that is not finite is none; level: drawn across as a broken line,
    where it is finite; name: what the values are, with their unit
    """
    whole = shown_span(windows)
    shown = [(at, value) for at, value in points if whole.begin <= at <= whole.end and math.isfinite(value)]
    if not shown:
        return Markup('<p class="soft">{}: nothing was stored in this time.</p>').format(name)
    low, high = _range([value for _, value in shown], level)
    frame = _Frame(whole, low, high)
    shades = [*(("healthy", span) for span in windows.healthy), ("incident", windows.incident)]
    return Markup('<svg class="timeline" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
        f"{WIDTH:g}", f"{HEIGHT + 34:g}", _words(shown, windows, name)
    ) + Markup("").join(
        [
            *(Markup(frame.shade(kind, span)) for kind, span in shades),
            Markup(frame.rule("zero", 0.0)),
            Markup(frame.rule("level", level)) if low <= level <= high else Markup(),
            Markup('<path class="line" d="{}"/>').format(_path(shown, frame)),
            *_labels(frame, name, [value for _, value in shown]),
            Markup("</svg>"),
        ]
    )


def shown_span(windows: Windows) -> Span:
    """From the first healthy second, but not so early that the incident has no width."""
    incident = windows.incident
    first = windows.healthy[0].begin if windows.healthy else incident.begin
    return Span(max(first, incident.begin - MOST_BEFORE * max(incident.length, SHORTEST_S)), incident.end)


class _Frame:
    """From times and values to places in the picture. y runs downwards, as SVG counts."""

    def __init__(self, whole: Span, low: float, high: float) -> None:
        self.whole, self.low, self.high = whole, low, high

    def x(self, at: float) -> float:
        """At the edge where it is before the picture begins."""
        return round(max(0.0, at - self.whole.begin) / max(self.whole.length, 1e-9) * WIDTH, 1)

    def y(self, value: float) -> float:
        return round((1 - (value - self.low) / (self.high - self.low)) * HEIGHT, 1)

    def shade(self, kind: str, span: Span) -> str:
        x = self.x(span.begin)
        return f'<rect class="{kind}" x="{x:g}" width="{max(1.0, self.x(span.end) - x):g}" height="{HEIGHT:g}"/>'

    def rule(self, kind: str, value: float) -> str:
        return f'<path class="{kind}" d="M0,{self.y(value):g}H{WIDTH:g}"/>'


def _range(values: Sequence[float], level: float) -> tuple[float, float]:
    """With room above, and 0 in it, so that a flat line is no mountain."""
    known = [*values, 0.0, *([level] if math.isfinite(level) else [])]
    low, high = min(known), max(known)
    room = 0.08 * (high - low or 1.0)
    return low - room, high + room


def _path(points: Sequence[tuple[float, float]], frame: _Frame) -> str:
    steps = sorted(after[0] - before[0] for before, after in pairwise(points))
    usual = steps[len(steps) // 2] if steps else 0.0
    parts = []
    for i, (at, value) in enumerate(points):
        is_new = i == 0 or at - points[i - 1][0] > GAP_STEPS * usual
        parts.append(f"{'M' if is_new else 'L'}{frame.x(at):g},{frame.y(value):g}h.1")
    return "".join(parts)


def _labels(frame: _Frame, name: str, values: Sequence[float]) -> list[Markup]:
    text = Markup('<text class="{}" x="{}" y="{}">{}</text>')
    return [
        text.format("middle", f"{WIDTH / 2:g}", f"{HEIGHT + 20:g}", f"{name}: {min(values):.3g} to {max(values):.3g}"),
        text.format("start", 4, f"{HEIGHT + 20:g}", utc(frame.whole.begin)),
        text.format("end", f"{WIDTH - 4:g}", f"{HEIGHT + 20:g}", utc(frame.whole.end)),
    ]


def _words(points: Sequence[tuple[float, float]], windows: Windows, name: str) -> str:
    """Mean of each window."""
    healthy = _mean([value for at, value in points if any(s.begin <= at <= s.end for s in windows.healthy)])
    incident = _mean([value for at, value in points if windows.incident.begin <= at <= windows.incident.end])
    return f"{name}: {healthy} in the healthy window, {incident} in the incident"


def _mean(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.2f} on average" if values else "nothing stored"
