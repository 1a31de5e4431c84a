"""One picture of an incident: evidence against what a page takes, and retention, over the last hours. SVG by itself.

For whoever shows images by their address: PagerDuty, a chat, a wiki. It says nothing that the status page does not say,
and no text of a request is in it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from markupsafe import Markup, escape

from agent.clock import Clock

HOURS = 6.0
POINTS = 72
# A picture is made again after so long: whoever asks more often asks no store.
FRESH_S = 20.0
WIDTH, LEFT, RIGHT, TOP, STRIP, GAP = 640.0, 64.0, 16.0, 62.0, 110.0, 34.0
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#333}.title{font-size:14px;font-weight:600}.soft{fill:#666}"
    ".line{fill:none;stroke:#1f5fa8;stroke-width:2}.level{stroke:#b3261e;stroke-dasharray:5 4}.rule{stroke:#bbb}"
)
QueryStore = Callable[[str, Mapping[str, str]], tuple[list[str], list[tuple[Any, ...]]]]


class Point(NamedTuple):
    """at: seconds since the epoch; log_e: nats, log_threshold: of a page; retention: 1 intact; nan where not known"""

    at: float
    log_e: float
    log_threshold: float
    retention: float


class IncidentPlots:
    """``svg(subject)``: its picture now. ``subjects``: adapters and bases that are configured; there is none of others.

    Called from any thread; takes as long as the store does, and raises what it raises.
    """

    def __init__(self, query: QueryStore, cluster: str, subjects: Collection[str], clock: Clock) -> None:
        self._query, self._cluster, self._subjects, self._clock = query, cluster, frozenset(subjects), clock
        self._lock = threading.Lock()
        self._made: dict[str, tuple[float, bytes]] = {}

    def svg(self, subject: str) -> bytes | None:
        """UTF-8; None of what is not configured."""
        if subject not in self._subjects:
            return None
        with self._lock:
            made_at, picture = self._made.get(subject, (-math.inf, b""))
        if self._clock.steady() - made_at < FRESH_S:
            return picture
        span = {"subject": subject, "cluster": self._cluster, "hours": f"{HOURS:g}", "points": str(POINTS)}
        picture = drawn(f"{subject}, cluster {self._cluster}", points_of(*self._query("course", span))).encode()
        with self._lock:
            self._made[subject] = self._clock.steady(), picture
        return picture


def points_of(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[Point]:
    """Of the answer of the question ``course``."""
    named = (dict(zip(columns, row, strict=True)) for row in rows)
    return [
        Point(_seconds(row["at"]), *(_number(row[name]) for name in ("log_e", "log_threshold", "retention")))
        for row in named
    ]


def drawn(title: str, points: Sequence[Point]) -> str:
    """The whole picture, with a white background and its meaning in words for those who do not see it. Pure."""
    height = TOP + 2 * STRIP + GAP + 30
    level = next((point.log_threshold for point in reversed(points) if math.isfinite(point.log_threshold)), math.nan)
    evidence = [(point.at, point.log_e) for point in points if math.isfinite(point.log_e)]
    kept = [(point.at, point.retention) for point in points if math.isfinite(point.retention)]
    parts = [
        Markup('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" width="{}" height="{}" role="img">').format(
            *(f"{side:g}" for side in (WIDTH, height, WIDTH, height))
        ),
        Markup("<title>{}</title><style>{}</style>").format(_words(title, evidence, kept, level), Markup(STYLE)),
        Markup(f'<rect width="{WIDTH:g}" height="{height:g}" fill="#fff"/>'),
        _text(LEFT, 24, title, "title"),
    ]
    if not evidence and not kept:
        return str(
            Markup("").join([*parts, _text(LEFT, 60, "nothing was stored of it in this time"), Markup("</svg>")])
        )
    times = points[0].at, points[-1].at
    of_evidence = _Strip(TOP, times, min(0.0, *_values(evidence)), max(1.0, *_values([*evidence, *_level(level)])))
    of_retention = _Strip(TOP + STRIP + GAP, times, min(-0.1, *_values(kept)), max(1.1, *_values(kept)))
    words = f"evidence in nats; a page takes {level:.1f} (broken line)" if math.isfinite(level) else "evidence in nats"
    parts += [
        _text(LEFT, TOP - 8, words, "soft"),
        of_evidence.rule(0.0, "rule"),
        *([of_evidence.rule(level, "level")] if math.isfinite(level) else []),
        of_evidence.line(evidence),
        _text(LEFT, TOP + STRIP + GAP - 8, "retention: 1 as accepted, 0 its base", "soft"),
        of_retention.rule(1.0, "rule"),
        of_retention.rule(0.0, "rule"),
        of_retention.line(kept),
        _text(LEFT, height - 10, f"{_minute(times[0])} to {_minute(times[1])} UTC", "soft"),
        Markup("</svg>"),
    ]
    return str(Markup("").join(parts))


class _Strip(NamedTuple):
    """One plot. top: of its area; times: first and last; low, high: values at its edges. y runs downwards"""

    top: float
    times: tuple[float, float]
    low: float
    high: float

    def _y(self, value: float) -> float:
        return self.top + STRIP * (self.high - value) / (self.high - self.low)

    def _x(self, at: float) -> float:
        begin, end = self.times
        return LEFT + (WIDTH - LEFT - RIGHT) * (at - begin) / max(end - begin, 1.0)

    def rule(self, value: float, kind: str) -> Markup:
        """A line across, with its value beside it."""
        line = f'<path class="{kind}" d="M{LEFT:g},{self._y(value):.1f}H{WIDTH - RIGHT:g}"/>'
        return Markup(line) + _text(16, self._y(value) + 4, f"{value:.3g}", "soft")

    def line(self, points: Sequence[tuple[float, float]]) -> Markup:
        """Through what is known: a stretch without a round has no point."""
        places = [f"{self._x(at):.1f},{self._y(value):.1f}" for at, value in points]
        return Markup(f'<path class="line" d="M{"L".join(places)}h0.01"/>') if places else Markup()


def _words(
    title: str, evidence: Sequence[tuple[float, float]], kept: Sequence[tuple[float, float]], level: float
) -> str:
    known = [
        *([f"evidence {evidence[-1][1]:.1f} nats at last, {max(_values(evidence)):.1f} at most"] if evidence else []),
        *([f"a page takes {level:.1f}"] if math.isfinite(level) else []),
        *([f"retention {kept[-1][1]:.2f} at last, {min(_values(kept)):.2f} at least"] if kept else []),
    ]
    return f"{title}: {'; '.join(known) or 'nothing was stored of it'}"


def _values(points: Sequence[tuple[float, float]]) -> list[float]:
    return [value for _, value in points] or [0.0]


def _level(level: float) -> list[tuple[float, float]]:
    return [(0.0, level)] if math.isfinite(level) else []


def _text(x: float, y: float, words: str, kind: str = "") -> Markup:
    return Markup('<text class="{}" x="{}" y="{}">{}</text>').format(kind, f"{x:g}", f"{y:.1f}", escape(words))


def _minute(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}"


def _seconds(value: Any) -> float:
    """The store's times are UTC, without saying so."""
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
