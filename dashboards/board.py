"""What a dashboard is: its panels, each an answer in SQL, and what may be chosen above them. No Grafana JSON here.

The SQL is for Grafana's ClickHouse data source (plugin grafana-clickhouse-datasource 4): its macros stand for the
window that is looked at. "Now" is the end of that window, so that a window of last night shows last night.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

STATUSES = ("healthy", "unmonitorable", "suspect", "degraded")
COLOURS = {"healthy": "green", "unmonitorable": "#8e8e8e", "suspect": "orange", "degraded": "red"}


class Shape(StrEnum):
    """How the rows of an answer are drawn.

    TABLE: as they are. LINES, BARS: columns (time, name of the series, value), or (time, one column a series).
    STATES: columns (time, name of the series, place in STATUSES). NUMBERS: one row, each column a figure.
    """

    TABLE = "table"
    LINES = "lines"
    BARS = "bars"
    STATES = "states"
    NUMBERS = "numbers"


@dataclass(frozen=True, slots=True)
class Link:
    """Where a click on a cell leads. url: with Grafana's variables; ``${__value.raw}`` is what the cell holds."""

    title: str
    url: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One answer.

    name: unique in its dashboard; question: the title; about: how to read it, and which command tells more
    width: of 24 columns; height: of about 30 pixels each
    unit: Grafana's name of one, of all numbers; units: column -> its unit, of a table
    links: column -> where a click on it leads; threshold: from which value on a figure is bad, None where none is
    """

    name: str
    question: str
    about: str
    sql: str
    shape: Shape = Shape.TABLE
    width: int = 24
    height: int = 8
    unit: str = ""
    units: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, Link] = field(default_factory=dict)
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class Filter:
    """What may be chosen above a dashboard, several at once.

    sql: an answer of one column, the choices; offers_all: all of them too, which is chosen at first, else the first one
    """

    name: str
    label: str
    sql: str
    offers_all: bool = True


@dataclass(frozen=True, slots=True)
class Typed:
    """A text field above a dashboard. value: what stands in it at first"""

    name: str
    label: str
    value: str


@dataclass(frozen=True, slots=True)
class Dashboard:
    """since: begin of the window that it opens with, as Grafana writes it ("now-24h"); refresh: how often, "" for never

    about: what it is for; uid: its address, /d/UID
    """

    uid: str
    title: str
    about: str
    since: str
    refresh: str
    filters: Sequence[Filter]
    panels: Sequence[Panel]
    typed: Sequence[Typed] = ()
