"""Output of all commands: one console, JSON on request, tables of verdicts and of rows.

With ``--json``, standard output holds one document and nothing else. Programs read its keys: they stay.
"""

from __future__ import annotations

import csv
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from shutil import get_terminal_size
from typing import Any

import orjson
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agent.alerting.notice_text import subject_words
from detectors.records import Reason, Status, SubjectKind, Verdict

# Without a terminal there is no width, and a table must still show every column.
console = Console() if sys.stdout.isatty() else Console(width=get_terminal_size((120, 24)).columns)

COLOURS = {Status.HEALTHY: "green", Status.SUSPECT: "yellow", Status.DEGRADED: "red", Status.UNMONITORABLE: "magenta"}
BAR = 12
BARS = " ▁▂▃▄▅▆▇█"
# Columns of the on-call questions that are drawn as bars: a histogram, and series over time.
DRAWN = ("histogram",)
SERIES = "_by_hour"
LONGEST = 48
# Fractions of a second, and the zone, which is UTC for every time here.
FRACTION = re.compile(r"(\d\d:\d\d:\d\d)(?:\.\d+)?\+00:00")
WIDE = 7


def as_json(value: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(orjson.dumps(value, default=str, option=orjson.OPT_INDENT_2).decode() + "\n")


def as_csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Rows for a spreadsheet on standard output: a header, times as ISO 8601, lists as JSON, nothing for no value."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_plain(value) for value in row] for row in rows)


def people_to_stderr() -> None:
    """With --json, standard output holds the document alone; everything else goes to standard error."""
    console.stderr = True


def bar(share: float) -> str:
    """Retention as a bar of twelve cells; 1 fills it, below 0 shows empty."""
    if not math.isfinite(share):
        return "·" * BAR
    filled = max(0, min(BAR, round(share * BAR)))
    return "█" * filled + "░" * (BAR - filled)


def picture(shares: Sequence[float]) -> str:
    """A histogram in one line of bars; a uniform one is half as high as the line, twice its share fills it."""
    top = max(2.0 / len(shares), *shares) if shares else 1.0
    return "".join(BARS[min(len(BARS) - 1, round(share / top * (len(BARS) - 1)))] for share in shares)


def sparkline(values: Sequence[float | None]) -> str:
    """A series in one line of bars from 0, or its lowest, to its highest, which is 1 at least: retention fills it while
    it is whole. A gap is a dot. At most LONGEST bars, each then the mean of several."""
    series = [math.nan if value is None else float(value) for value in values]
    step = max(1, math.ceil(len(series) / LONGEST))
    means = [_mean(series[begin : begin + step]) for begin in range(0, len(series), step)]
    known = [value for value in means if math.isfinite(value)]
    low, high = min(0.0, *known, 0.0), max(1.0, *known, 1.0)
    return "".join(_bar_of(value, low, high) for value in means)


def column_chart(values: Sequence[float], line: float, height: int = 5) -> list[str]:
    """A series as columns over 0, the highest row first, and a level drawn across it where the columns do not reach.

    The top is the highest of the values and a little more than the level; what is not a number has no column.
    """
    known = [value for value in values if math.isfinite(value)]
    level = line if math.isfinite(line) else 0.0
    top = max([1e-9, 1.1 * level, *known])
    at_row = min(height - 1, int(level / top * height)) if level > 0 else -1
    rows = []
    for row in reversed(range(height)):
        empty = "╌" if row == at_row else " "
        cells = [value / top * height - row if math.isfinite(value) else 0.0 for value in values]
        rows.append("".join(empty if cell <= 0 else BARS[min(len(BARS) - 1, math.ceil(cell * 8))] for cell in cells))
    return rows


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan


def _bar_of(value: float, low: float, high: float) -> str:
    return BARS[1 + round((value - low) / (high - low) * (len(BARS) - 2))] if math.isfinite(value) else "·"


def number(value: float, digits: int = 2) -> str:
    return f"{value:z.{digits}f}" if math.isfinite(value) else "-"


def evidence_of(verdict: Verdict) -> float:
    """The level of the detector that may page, in nats; nan where there is none."""
    levels = [e.log_e for e in verdict.evidence if e.pages]
    return max(levels) if levels else math.nan


def verdict_table(verdicts: Iterable[Verdict], title: str = "", sees: Mapping[str, str] | None = None) -> Table:
    """One row a subject: retention with its interval, strength, evidence against the threshold, verdict and cause.

    sees: adapter -> the smallest loss that would page, in words: it stands beside the verdict of a healthy one
    """
    table = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("subject", "retention", "95 % interval", "scale", "beyond", "evidence/page", "verdict"):
        table.add_column(heading, no_wrap=heading != "verdict")
    for verdict in verdicts:
        table.add_row(*_cells(verdict, sees or {}))
    return table


def rows_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str = "", wide: int = WIDE) -> Table:
    """Columns and rows from the store; with more columns than ``wide``, each row as a block of name and value."""
    rows = [[_drawn(column, value) for column, value in zip(columns, row, strict=True)] for row in rows]
    if len(columns) > wide:
        return _upright(columns, rows, title)
    table = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    return table


def _upright(columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str) -> Table:
    table = Table(title=title, title_justify="left", show_header=False, box=box.SIMPLE, pad_edge=False)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        for column, value in zip(columns, row, strict=True):
            if shown := "" if value is None else _cell(value):
                table.add_row(column, shown)
        table.add_section()
    return table


def _cells(verdict: Verdict, sees: Mapping[str, str]) -> tuple[str, ...]:
    colour = COLOURS[verdict.status]
    interval = verdict.retention
    beyond = f"{verdict.share_beyond:.0%}" if math.isfinite(verdict.share_beyond) else "-"
    return (
        escape(subject_words(verdict)),
        f"[{colour}]{bar(interval.mean)}[/{colour}] {number(interval.mean, 3)}" if interval else "",
        f"{interval.low:z.3f} .. {interval.high:z.3f}" if interval and math.isfinite(interval.low) else "",
        number(verdict.scale),
        beyond,
        f"{number(evidence_of(verdict), 1)} / {number(verdict.log_threshold, 1)}",
        f"[{colour}]{verdict.status}[/{colour}]{_because(verdict)}{_smallest_loss(verdict, sees)}",
    )


def _smallest_loss(verdict: Verdict, sees: Mapping[str, str]) -> str:
    """How small a loss the word healthy excludes, of an adapter."""
    is_healthy = verdict.status is Status.HEALTHY and verdict.subject_kind is SubjectKind.ADAPTER
    return f"; pages for {sees[verdict.subject]}" if is_healthy and verdict.subject in sees else ""


def _because(verdict: Verdict) -> str:
    """What the status alone leaves open: the cause while degraded, else the reason."""
    if verdict.status is Status.DEGRADED:
        words = f"{verdict.cause}, {verdict.reason}" if verdict.reason is Reason.RECOVERING else str(verdict.cause)
    elif verdict.tolerated_change:
        words = "changed within tolerance"
    elif verdict.reason is Reason.WITHIN_TOLERANCE:
        return ""
    else:
        words = str(verdict.reason)
    return f": {words}".replace("_", " ")


def _drawn(column: str, value: Any) -> Any:
    if column in DRAWN and value:
        return picture(value)
    return sparkline(value) if column.endswith(SERIES) and value else value


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple | dict):
        return orjson.dumps(value, default=str).decode()
    if isinstance(value, datetime):
        return value.isoformat()
    return "" if isinstance(value, float) and not math.isfinite(value) else value


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return number(value, 3)
    if isinstance(value, list | tuple):
        return ", ".join(_cell(item) for item in value)
    one_line = str(value).replace("\n", " ")
    return escape(FRACTION.sub(r"\1", one_line))


def counted(count: int, thing: str) -> str:
    """``1 adapter``, ``2 adapters``."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def say(text: str) -> None:
    """One line for a person, without line breaks of ours, so that a hash or a path can be copied whole."""
    console.print(text, highlight=False, soft_wrap=True)
