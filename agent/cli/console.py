"""Output of all commands: one console, JSON on request, tables of verdicts and of rows.

With ``--json``, standard output holds one document and nothing else. Programs read its keys: they stay.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Sequence
from shutil import get_terminal_size
from typing import Any

import orjson
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agent.alerting.notice_text import subject_words
from detectors.records import Reason, Status, Verdict

# Without a terminal there is no width, and a table must still show every column.
console = Console() if sys.stdout.isatty() else Console(width=get_terminal_size((120, 24)).columns)

COLOURS = {Status.HEALTHY: "green", Status.SUSPECT: "yellow", Status.DEGRADED: "red", Status.UNMONITORABLE: "magenta"}
BAR = 12
BARS = " ▁▂▃▄▅▆▇█"
# Columns of the on-call questions that are drawn as bars.
DRAWN = ("histogram",)
# Fractions of a second, and the zone, which is UTC for every time here.
FRACTION = re.compile(r"(\d\d:\d\d:\d\d)(?:\.\d+)?\+00:00")
WIDE = 7


def as_json(value: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(orjson.dumps(value, default=str, option=orjson.OPT_INDENT_2).decode() + "\n")


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


def number(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"


def evidence_of(verdict: Verdict) -> float:
    """The level of the detector that may page, in nats; nan where there is none."""
    levels = [e.log_e for e in verdict.evidence if e.pages]
    return max(levels) if levels else math.nan


def verdict_table(verdicts: Iterable[Verdict], title: str = "") -> Table:
    """One row a subject: retention with its interval, strength, evidence against the threshold, verdict and cause."""
    table = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("subject", "retention", "95 % interval", "scale", "beyond", "evidence/page", "verdict"):
        table.add_column(heading, no_wrap=heading != "verdict")
    for verdict in verdicts:
        table.add_row(*_cells(verdict))
    return table


def rows_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str = "") -> Table:
    """Columns and rows from the store; with many columns, each row as a block of name and value."""
    rows = [[_drawn(column, value) for column, value in zip(columns, row, strict=True)] for row in rows]
    if len(columns) > WIDE:
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


def _cells(verdict: Verdict) -> tuple[str, ...]:
    colour = COLOURS[verdict.status]
    interval = verdict.retention
    beyond = f"{verdict.share_beyond:.0%}" if math.isfinite(verdict.share_beyond) else "-"
    return (
        escape(subject_words(verdict)),
        f"[{colour}]{bar(interval.mean)}[/{colour}] {number(interval.mean, 3)}" if interval else "",
        f"{interval.low:.3f} .. {interval.high:.3f}" if interval and math.isfinite(interval.low) else "",
        number(verdict.scale),
        beyond,
        f"{number(evidence_of(verdict), 1)} / {number(verdict.log_threshold, 1)}",
        f"[{colour}]{verdict.status}[/{colour}]{_because(verdict)}",
    )


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
    return picture(value) if column in DRAWN and value else value


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
