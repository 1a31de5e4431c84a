"""The pictures of the README, from one run of ``gapwatch demo``: what a person sees, and retention over its rounds.

`python -m benchmarks.pictures` draws docs/pictures/*.svg from docs/pictures/demo_run.json. With `--record FOLDER`, of a
finished `gapwatch demo` (.gapwatch/demo), it first writes that file again from the store that the demo left there, on
this machine. Table and page are rendered by the product's own code.
"""

from __future__ import annotations

import argparse
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.panel import Panel

from agent.alerting.policy import Policy
from agent.demo.receiver import ReceivedIncident
from agent.demo.story import page_text
from agent.records import Notice, NoticeKind, NoticeReason
from agent.sinks import pagerduty
from agent.store.client import Client, connect
from agent.terminal.console import verdict_table
from benchmarks.figures import machine
from benchmarks.strips import Mark, Point, Strip, strips
from detectors.records import Cause, Evidence, Interval, Reason, Status, SubjectKind, Verdict

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "pictures"
RUN, PAGE, RETENTION = FOLDER / "demo_run.json", FOLDER / "page.svg", FOLDER / "retention.svg"
WIDTH = 118
# The page's last lines are long and meant for copying: hashes, queries, SQL.
SHOWN_DETAILS = 9
# The first act of the demo, detected by canaries; the second has rounds of responses under the same numbers.
VERDICTS = """
SELECT subject_kind, subject, base, round, toUnixTimestamp64Milli(at) / 1000 AS at, status, reason, cause, retention,
       retention_low, retention_high, retention_n, scale, share_beyond, log_e, log_threshold
FROM verdicts WHERE at <= (SELECT min(at) FROM notices WHERE reason = 'recovered') ORDER BY at, subject_kind, subject
"""
NOTICES = """
SELECT toUnixTimestamp64Milli(at) / 1000 AS at, kind, reason, dedup_key, summary, details, round
FROM notices WHERE at <= (SELECT min(at) FROM notices WHERE reason = 'recovered') ORDER BY at
"""
FONT_FACES = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Run:
    """One recorded demo. where: the machine, in words; notices: of the first act, the page and its end"""

    where: str
    verdicts: tuple[Verdict, ...]
    notices: tuple[Notice, ...]

    def of_round(self, number: int) -> list[Verdict]:
        """Adapters in the order in which the page names them, the base last."""
        names = self.page.details["adapters"].split(", ")
        verdicts = [verdict for verdict in self.verdicts if verdict.round == number]
        return sorted(verdicts, key=lambda v: names.index(v.subject) if v.subject in names else len(names))

    @property
    def page(self) -> Notice:
        return next(notice for notice in self.notices if notice.kind is NoticeKind.TRIGGER)


def record(client: Client, into: Path) -> None:
    """The rows of a finished demo, from its store, as one JSON file."""
    content: dict[str, Any] = {"command": "gapwatch demo", "machine": machine()}
    for name, question in (("verdicts", VERDICTS), ("notices", NOTICES)):
        answer = client.query(question)
        content[name] = [dict(zip(answer.column_names, row, strict=True)) for row in answer.result_rows]
    into.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2) + b"\n")


def read(file: Path) -> Run:
    """A recorded demo as the product's own records."""
    content = orjson.loads(file.read_bytes())
    recorded_on = content["machine"]
    day = datetime.fromtimestamp(content["verdicts"][0]["at"], UTC).date()
    hardware = f"{recorded_on['cpu']}, {recorded_on['cores']} cores, {recorded_on['gpu'] or 'no GPU'}"
    where = f"{content['command']} on {day}, {hardware}"
    verdicts = tuple(_verdict(row) for row in content["verdicts"])
    return Run(where, verdicts, tuple(_notice(row, verdicts) for row in content["notices"]))


def page_picture(run: Run) -> str:
    """A healthy round, the round after the swap, and the page, as the terminal shows them."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    alarm = run.page.verdict.round
    healthy = max(verdict.round for verdict in run.verdicts if verdict.round < alarm and _measured(verdict))
    console.print(verdict_table(run.of_round(healthy), title="before: every adapter does what it was accepted for"))
    console.print("[bold]An upstream release replaces the base. Its own answers stay exactly the same.[/bold]\n")
    console.print(verdict_table(run.of_round(alarm), title="the first round after it"))
    console.print(Panel(_short(run.page), title="[bold red]PagerDuty[/bold red]", border_style="red"))
    return FONT_FACES.sub("", console.export_svg(title=run.where, unique_id="page"))


def retention_picture(run: Run) -> str:
    """Retention of each adapter over the rounds, with the page and its end."""
    began = run.verdicts[0].at
    adapters = [v.subject for v in run.of_round(run.page.verdict.round) if v.subject_kind is SubjectKind.ADAPTER]
    rows = [Strip(name, tuple(_points(run.verdicts, name, began))) for name in adapters]
    resolved = next(notice for notice in run.notices if notice.kind is NoticeKind.RESOLVE)
    marks = (
        Mark(_first(run.verdicts, began, Reason.FILES_CHANGING), "another base is seen", "#8a6d00"),
        Mark(run.page.at - began, "the page", "#c62828"),
        Mark(_after_page(run, began), "the accepted one is back", "#8a6d00"),
        Mark(resolved.at - began, "resolved", "#2e7d32"),
    )
    title = "Retention: how much of each adapter's effect is left (1 all of it, 0 the bare base)"
    note = f"Points are rounds, with 95 % intervals, here narrower than a point; seconds since the first. {run.where}."
    return strips(title, rows, marks, note)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--record", type=Path, metavar="FOLDER", help="of a finished demo: take its store first")
    demo = parser.parse_args().record
    if demo is not None:
        record(connect(f"chdb://{(demo / 'store').resolve()}"), RUN)
    run = read(RUN)
    PAGE.write_text(page_picture(run))
    RETENTION.write_text(retention_picture(run))


def _verdict(row: Mapping[str, Any]) -> Verdict:
    number = {name: math.nan if value is None else value for name, value in row.items()}
    kind = SubjectKind(row["subject_kind"])
    level = Evidence(kind, row["subject"], "", "", row["round"], number["log_e"], 0, row["at"])
    retention_interval = Interval(
        number["retention"], number["retention_low"], number["retention_high"], row["retention_n"]
    )
    return Verdict(
        subject_kind=kind,
        subject=row["subject"],
        base=row["base"],
        round=row["round"],
        at=row["at"],
        status=Status(row["status"]),
        reason=Reason(row["reason"]),
        cause=Cause(row["cause"]),
        retention=retention_interval if math.isfinite(retention_interval.mean) else None,
        scale=number["scale"],
        share_beyond=number["share_beyond"],
        evidence=(level,),
        log_threshold=number["log_threshold"],
    )


def _notice(row: Mapping[str, Any], verdicts: Sequence[Verdict]) -> Notice:
    kind, subject = row["dedup_key"].split("/")[-2:]
    about = next(v for v in verdicts if (v.subject_kind, v.subject, v.round) == (kind, subject, row["round"]))
    fields = NoticeKind(row["kind"]), NoticeReason(row["reason"]), row["dedup_key"], row["summary"], about, row["at"]
    return Notice(*fields, row["details"])


def _short(notice: Notice) -> Any:
    """The first lines of the page, as the demo shows it."""
    settings = pagerduty.Config(routing_key_file=Path("key"))
    _, event = pagerduty.to_event(notice, settings, "gapwatch", Policy().of_notice(notice))
    details = event["payload"]["custom_details"]
    event["payload"]["custom_details"] = dict(list(details.items())[:SHOWN_DETAILS])
    text = page_text(ReceivedIncident(notice.dedup_key, "triggered", [event]))
    text.append(f"and {len(details) - SHOWN_DETAILS} more: evidence, hashes, queries ready to paste", style="dim")
    return text


def _points(verdicts: Sequence[Verdict], adapter: str, began: float) -> list[Point]:
    own = [v for v in verdicts if v.subject == adapter]
    return [Point(v.at - began, v.retention, v.status.value) for v in own]


def _measured(verdict: Verdict) -> bool:
    return verdict.retention is not None


def _first(verdicts: Sequence[Verdict], began: float, reason: Reason) -> float:
    return next(v.at - began for v in verdicts if v.reason is reason)


def _after_page(run: Run, began: float) -> float:
    return _first([v for v in run.verdicts if v.at > run.page.at], began, Reason.FILES_CHANGING)


if __name__ == "__main__":
    main()
