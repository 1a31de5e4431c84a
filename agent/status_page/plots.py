"""Small plots as inline SVG, with their meaning in words for those who do not see them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from markupsafe import Markup

WIDTH, HEIGHT = 96.0, 20.0
LOW, HIGH = -0.1, 1.15


def retention_plot(points: tuple[tuple[float, float], ...], now: float, span_s: float, stretch_s: float) -> Markup:
    """Retention over the last ``span_s`` seconds: the upper line is 1, as accepted, the lower one 0, the base.

    points: (when a stretch of ``stretch_s`` began, retention in it), in order; where one is missing the line is broken
    """
    return _drawn(points, now - now % stretch_s + stretch_s, span_s, stretch_s)


@lru_cache(maxsize=4096)
def _drawn(points: tuple[tuple[float, float], ...], now: float, span_s: float, stretch_s: float) -> Markup:
    """Kept, because between two looks at the page the plots of most adapters stay as they are. now: a stretch's end"""
    shown = [(at, value) for at, value in points if now - span_s <= at <= now]
    if not shown:
        return Markup('<span class="none">no round in the last day</span>')
    words = f"retention over the last day: lowest {min(v for _, v in shown):.2f}, last {shown[-1][1]:.2f}"
    d = _path(shown, now - span_s, span_s, stretch_s)
    lines = f"M0,{_y(1.0)}H{WIDTH:g}M0,{_y(0.0)}H{WIDTH:g}"
    return Markup('<svg class="plot" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
        f"{WIDTH:g}", f"{HEIGHT:g}", words
    ) + Markup(f'<path class="rule" d="{lines}"/><path class="line" d="{d}"/></svg>')


def evidence_plot(log_e: float, log_threshold: float) -> Markup:
    """A bar that is full where the evidence pages, with both numbers in words. In nats; an e-process never goes below 0
    here, because evidence for health does not show."""
    share = max(0.0, min(1.0, log_e / log_threshold)) if 0 < log_threshold < float("inf") else 0.0
    words = f"evidence {log_e:.1f} nats, pages at {log_threshold:.1f}"
    return Markup('<svg class="bar" viewBox="0 0 96 8" role="img" aria-label="{}">').format(words) + Markup(
        f'<rect class="trough" width="96" height="8"/><rect class="fill" width="{96 * share:.0f}" height="8"/></svg>'
    )


def _path(points: Sequence[tuple[float, float]], began: float, span_s: float, stretch_s: float) -> str:
    """What lies on a straight line between its neighbours is left out: a healthy day is a few characters."""
    steps: list[str] = []
    drawn = [(round((at - began) / span_s * WIDTH, 1), _y(value), at) for at, value in points]
    for i, (x, y, at) in enumerate(drawn):
        is_new = i == 0 or at - drawn[i - 1][2] > 1.5 * stretch_s
        ends = i + 1 == len(drawn) or drawn[i + 1][2] - at > 1.5 * stretch_s
        if not is_new and not ends and drawn[i - 1][1] == y == drawn[i + 1][1]:
            continue
        steps.append(f"{'M' if is_new else 'L'}{x:g},{y}")
        if is_new and ends:
            steps.append("h1")  # a single stretch is a dot
    return "".join(steps)


def _y(value: float) -> str:
    """Downwards, as SVG counts; beyond the edges at the edge."""
    share = (min(HIGH, max(LOW, value)) - LOW) / (HIGH - LOW)
    return f"{(1 - share) * HEIGHT:.0f}"
