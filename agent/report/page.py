"""The report as one HTML file that asks no server for anything. Pure, but for the template that is shipped beside it.

The template escapes whatever it is given, Evidently's document too, which is shown in a frame of its own. The page's
policy (Content-Security-Policy) lets no part of it load anything, whatever an adapter is called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from agent.report.contents import Column, Contents
from agent.report.evidently_report import LEVEL, Drift
from agent.report.plots import timeline
from agent.report.windows import Windows, lasting, utc

_FOLDER = files("agent") / "report"
# Canaries that are listed, and by how much of its retention one has changed that is.
MOST_CANARIES, CHANGED = 12, 0.05


@dataclass(frozen=True, slots=True)
class Course:
    """Over both windows. evidence, retention: (when, value), in order; log_threshold: in nats, nan where not known"""

    evidence: Sequence[tuple[float, float]] = ()
    retention: Sequence[tuple[float, float]] = ()
    log_threshold: float = float("nan")


@dataclass(frozen=True, slots=True)
class Report:
    """All that is on the page. title: what is reported; story: of the incident, title -> lines, {} where none was named

    drift: None where nothing could be compared; made: when, in words
    of_several: the adapters of a base's incident, this one first, () where it is of one
    """

    title: str
    adapter: str
    windows: Windows
    contents: Contents
    drift: Drift | None
    course: Course
    story: Mapping[str, Sequence[str]]
    made: str
    of_several: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Difference:
    """One compared column in words."""

    title: str
    healthy: str
    incident: str
    p_value: str
    differs: bool


def rendered(report: Report) -> str:
    """HTML, a few megabytes: Evidently's own program is inside."""
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    template = environment.from_string((_FOLDER / "page.html").read_text(encoding="utf-8"))
    contents, windows = report.contents, report.windows
    moved = [canary for canary in contents.moved if abs(canary.incident - canary.healthy) >= CHANGED]
    return template.render(
        report=report,
        style=Markup((_FOLDER / "page.css").read_text(encoding="utf-8")),
        spans=[*(("healthy", span) for span in windows.healthy), ("incident", windows.incident)],
        differences=differences(contents.columns, report.drift),
        plots=plots(report),
        moved=moved[:MOST_CANARIES],
        hidden=len(moved[MOST_CANARIES:]),
        still=len(contents.moved) - len(moved),
        chance=f"{LEVEL:.0%}",
        lasting=lasting,
        utc=utc,
    )


def differences(columns: Sequence[Column], drift: Drift | None) -> list[Difference]:
    """Of each column median and middle half in both windows, those that differ first."""
    if drift is None:
        return []
    p_values = drift.p_values
    return [
        Difference(
            column.title,
            _summary(column.healthy),
            _summary(column.incident),
            f"{p_values[column.title]:.2g}",
            p_values[column.title] < drift.level,
        )
        for column in sorted(columns, key=lambda column: p_values[column.title])
    ]


def plots(report: Report) -> list[Markup]:
    course, windows = report.course, report.windows
    retention = "retention, 1 as accepted (broken line), 0 the base"
    evidence = "evidence in nats, which pages at the broken line"
    return [
        timeline(course.retention, windows, 1.0, retention),
        timeline(course.evidence, windows, course.log_threshold, evidence),
    ]


def _summary(values: NDArray[np.float64]) -> str:
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return f"{middle:.4g} ({low:.4g} to {high:.4g}), {len(values)}"
