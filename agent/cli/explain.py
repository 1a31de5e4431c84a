"""gapwatch explain: one incident whole, on one screen: what, since when, what changed, whom it touches, what to do.

All of it is answers of on-call questions and parts of the cause's runbook; each can be asked by itself for more.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote
from typing import Any

import httpx
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from agent.alerting.notice_text import FIRST_ACTION, PODS, RELOAD, ROLL_BACK, pods_words
from agent.alerting.page_words import clauses, explained, numbered
from agent.cli.query import Ask, asking
from agent.clock import Clock
from agent.config import PagerDuty, load
from agent.delivery.links import About, links_about
from agent.delivery.pagerduty_incidents import open_incident
from agent.errors import Refused, Retryable
from agent.shipped import runbook_sections
from agent.terminal.console import as_json, column_chart, console, counted, number, sparkline
from detectors.name_list import first_names
from detectors.on_call_text import TERMS_MORE
from detectors.records import Cause, Status, SubjectKind
from detectors.verdicts.incident import BY_RESPONSES

CANNOT_TELL = 2
# Seconds that PagerDuty has to say who works on an incident.
ASK_S = 3.0
YEARS_D = 3650
HOUR_S = 3600.0
# Seconds before an incident was opened that the chart shows too, at least; and the most that it shows at all.
LEAST_LEAD_IN_S, MOST_S = 600.0, 14 * 86_400.0
# Texts are regenerated after the alarm: those of a round that was judged a moment before the page are of it.
FLIPPED_BEFORE_S = 60.0
# Columns of the chart, rows and steps of a list that are shown, and characters of a text.
CHART_WIDTH, SHOWN, CHECKS, TEXT = 48, 3, 2, 70
# Of one subject, in all its incidents.
MOST_NOTICES = 1000
# Part of an identity -> the columns of ``identity`` that hold its hash before and after.
PARTS = {
    "base": ("base_before", "live_base"),
    "adapter": ("adapter_before", "live_adapter"),
    "tokenizer": ("tokenizer_before", "live_tokenizer"),
    "chat template": ("template_before", "live_template"),
    "engine": ("engine_before", "live_engine"),
    "source in the engine": ("source_before", "live_source"),
}
NO_USERS = "whose requests these were is the gateway's to say: no sampled record names a user"
NOT_COUNTED = "no request was counted since: none came, or no topic is read in which they are"
NO_FLIPS = "no text was compared in this incident; the latest changed ones are of {at}, of an incident before"
# Seconds without a new response, or request, after which that is said.
QUIET_S = 120.0
# As a page's detail ``reopened`` begins (on_call_text.py::REOPENED).
REOPENINGS = re.compile(r"(\d+) in a row")
Row = dict[str, Any]
RowsOf = Callable[[str, Mapping[str, str]], list[Row]]


@dataclass(frozen=True, slots=True)
class Story:
    """One incident in answers.

    incident: a row of ``incidents``; page: the latest notice of it that opened or sharpened it, of ``notices_of``
    since: of the same name, {} where nothing was measured; course: points in time; changes: of ``identity``
    requests: of ``requests_since``; flips: of ``flipped``; steps: part of the runbook -> its text, with names filled in
    requesters: of the same name, since the fault was there
    watched: of the same name, of an incident that ended
    answered: who works on it, by PagerDuty, "" where that is not known
    links: of its notices, by what they lead to
    judged, responses: of an open incident, its row of ``degraded`` and those of ``responses``, newest first
    former: the incident of the same subject before it, a row of ``incidents``; asked_at: seconds since the epoch
    """

    incident: Row
    page: Row
    since: Row = field(default_factory=dict)
    course: Sequence[Row] = ()
    changes: Sequence[Row] = ()
    requests: Sequence[Row] = ()
    requesters: Sequence[Row] = ()
    flips: Sequence[Row] = ()
    steps: Mapping[str, str] = field(default_factory=dict)
    watched: Sequence[Row] = ()
    answered: str = ""
    links: Mapping[str, str] = field(default_factory=dict)
    judged: Row = field(default_factory=dict)
    responses: Sequence[Row] = ()
    former: Row = field(default_factory=dict)
    asked_at: float = math.inf


def explain(path: Path, incident: str, json: bool) -> int:
    """The latest incident of a subject, or the latest that is open; of none that, the latest that ended.

    incident: ``KIND/NAME`` or NAME of its subject, or its key as a page has it; "" for the latest; ``@TIME`` behind it
    for the one that was open then. 2 where there was none. Raises Refused for one that the store does not know,
    Retryable where the store is away.
    """
    config = load(path)
    now = Clock().now()
    with asking(config) as ask_one:
        story = story_of(ask_one, incident, config.cluster, now)
    if story is None:
        console.print(f"no incident is stored of cluster {escape(config.cluster)}")
        return CANNOT_TELL
    if config.alerts.pagerduty is not None:
        story = _with_pagerduty(story, config.alerts.pagerduty)
    if json:
        as_json(asdict(story))
    else:
        console.print(screen(story, now), highlight=False)
    return 0


def story_of(ask_one: Ask, wanted: str, cluster: str, now: float) -> Story | None:
    """As ``explain``; None where no incident is stored. Raises as it does."""

    def rows_of(name: str, params: Mapping[str, str]) -> list[Row]:
        columns, rows = ask_one(name, params)
        return [dict(zip(columns, row, strict=True)) for row in rows]

    rows = rows_of("incidents", {"cluster": cluster, "days": str(YEARS_D)})  # open ones first, then the latest
    incident = _incident(rows, wanted)
    if incident is None:
        return None
    story = replace(_story(rows_of, incident, now), former=_former(rows, incident), asked_at=now)
    return story if incident["ended_at"] is not None else _with_latest(story, rows_of)


def _with_latest(story: Story, rows_of: RowsOf) -> Story:
    """With when the subject was judged last, and the responses that were sampled of it."""
    incident = story.incident
    names = ("subject_kind", "subject")
    judged = [
        row
        for row in rows_of("degraded", {"cluster": str(incident["cluster"])})
        if all(row[name] == incident[name] for name in names)
    ]
    responses = rows_of("responses", {"subject": str(incident["subject"])})
    return replace(story, judged=judged[0] if judged else {}, responses=responses)


def _former(rows: Sequence[Row], incident: Row) -> Row:
    """The latest incident under the same key that ended before this one opened, {} where there is none."""
    opened = _at(incident["opened_at"])
    of_it = [row for row in rows if row["dedup_key"] == incident["dedup_key"] and _at(row["opened_at"]) < opened]
    return max(of_it, key=lambda row: _at(row["opened_at"]), default={})


def _incident(rows: Sequence[Row], wanted: str) -> Row | None:
    if not wanted:
        return rows[0] if rows else None
    name, at = _name_and_time(wanted)
    for row in rows:
        known_as = row["dedup_key"], f"{row['subject_kind']}/{row['subject']}", row["subject"]
        if wanted in known_as or (name in known_as and _was_open(row, at)):
            return row
    names = list(dict.fromkeys(f"{row['subject_kind']}/{row['subject']}" for row in rows))
    wished = f"one of: {', '.join(names[:20])}" if names else "none: no incident is stored"
    raise Refused("gapwatch explain", repr(wanted), wished)


def _name_and_time(wanted: str) -> tuple[str, float]:
    """``NAME@TIME``; inf where no time follows: a name may have an @ of its own."""
    name, _, time = wanted.rpartition("@")
    try:
        return name, _at(time)
    except ValueError:
        return wanted, math.inf


def _was_open(incident: Row, at: float) -> bool:
    """A person copies times without their fractions, or to the minute."""
    ended = incident["ended_at"]
    return _at(incident["opened_at"]) - 60.0 <= at and (ended is None or at <= _at(ended))


def _story(rows_of: RowsOf, incident: Row, now: float) -> Story:
    """By the questions of the page, each asked for this subject. Of a former incident only what is of its own time:
    the others answer for the latest one."""
    of_it = {"subject": str(incident["subject"]), "cluster": str(incident["cluster"])}
    subject = {"subject": of_it["subject"]}
    begin, end = _at(incident["opened_at"]), now if incident["ended_at"] is None else _at(incident["ended_at"])
    notices = rows_of("notices_of", {"dedup_key": str(incident["dedup_key"]), "limit": str(MOST_NOTICES)})
    pages = [row for row in notices if row["kind"] == "trigger" and _at(row["at"]) >= begin]
    is_latest, page = _at(pages[0]["at"]) <= end, next(row for row in pages if _at(row["at"]) <= end)
    steps = _steps(page, incident)
    if incident["kind"] == "cannot_tell":
        return Story(incident, page, steps=steps)
    kind = incident["subject_kind"]
    lead_in = max(LEAST_LEAD_IN_S, (end - begin) / 2)
    begin = max(begin - lead_in, end - MOST_S)
    span = {"hours": f"{(now - begin) / HOUR_S:.4f}", "until_hours": f"{max(0.0, now - end) / HOUR_S:.4f}"}
    since = [row for row in rows_of("since", of_it) if row["subject_kind"] == kind and is_latest]
    return Story(
        incident,
        page,
        since=since[0] if since else {},
        course=rows_of("course", of_it | span | {"points": str(CHART_WIDTH)}),
        changes=rows_of("identity", subject) if is_latest else (),
        requests=rows_of("requests_since", of_it) if is_latest else (),
        requesters=rows_of("requesters", of_it | _since_onset(since, incident, now)) if is_latest else (),
        flips=rows_of("flipped", subject | {"hours": str(math.ceil((now - begin) / HOUR_S))}),
        steps=steps,
        watched=rows_of("watched", subject) if incident["ended_at"] is not None else (),
    )


def _since_onset(since: Sequence[Row], incident: Row, now: float) -> dict[str, str]:
    """From when the fault was surely there to the incident's end, as a question takes it."""
    began = _at(since[0]["onset_by"]) if since and since[0].get("onset_by") else _at(incident["opened_at"])
    ended = now if incident["ended_at"] is None else _at(incident["ended_at"])
    spans = {"hours": max(0.0, now - began), "until_hours": max(0.0, now - ended)}
    return {name: f"{seconds / HOUR_S:.4f}" for name, seconds in spans.items()}


def _steps(page: Row, incident: Row) -> dict[str, str]:
    """Of the runbook that the page names, ADAPTER and BASE replaced."""
    try:
        sections = runbook_sections(_runbook_of(page))
    except Refused:  # a cause of another version
        sections = runbook_sections(Cause.UNKNOWN.value)
    subject, base = quote(str(incident["subject"])), quote(str(incident["base"]))
    is_base = incident["subject_kind"] == SubjectKind.BASE.value
    return {title: _with_names(text, subject, base, is_base) for title, text in sections.items()}


def _runbook_of(page: Row) -> str:
    cause = str(page["cause"])
    return cause if cause != Cause.NONE.value else Status.UNMONITORABLE.value


def _with_names(text: str, subject: str, base: str, is_base: bool) -> str:
    """Of a base's incident the adapters are several: only questions are then asked of the base in their place."""
    pattern = r"(?<=subject=)ADAPTER\b" if is_base else r"\bADAPTER\b"
    return re.sub(r"\bBASE\b", lambda _: base, re.sub(pattern, lambda _: subject, text))


def screen(story: Story, now: float) -> RenderableType:
    """The story for a person: a title beside each part."""
    table = Table.grid(padding=(0, 1))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for title, lines in parts_of(story).items():
        for number_, line in enumerate(lines):
            table.add_row("" if number_ else title, escape(line))
    summary = Text(str(story.page["summary"]), style="bold")
    return Group(Text.from_markup(_head(story, now)), summary, table)


def parts_of(story: Story) -> dict[str, list[str]]:
    """Title -> lines, in the order of the questions at three in the morning; parts without a line are left out."""
    details, steps, is_open = dict(story.page["details"]), story.steps, story.incident["ended_at"] is None
    parts = {
        "what": [*_what(details), _answered_by(details), _notices_of(story), story.answered],
        "since": [*_since(story), *_waiting(story)],
        "evidence": _course(story),
        "changed": _changed(story),
        "touches": [*_from_pods(story), *_touched(story)],
        "canaries": _flipped(story),
        "do": [*_steps_to_do(story), *_roll_back(story), steps.get("Then", "")],
        "check": steps.get("Check", "").split("\n")[:CHECKS],
        "undo": [steps.get("Undo", "")],
        "over when": [_healthy_by(story.incident, details), *_rounds_to_end(details), steps.get("Recovered when", "")]
        if is_open
        else [],
        "compare": [_report(story.incident)],
        "watch": _watch(story),
        "see": [f"{text}: {address}" for text, address in story.links.items()],
    }
    lines = {
        title: [line for text in texts for line in text.split("\n") if line.strip()] for title, texts in parts.items()
    }
    filled = {title: lines_of for title, lines_of in lines.items() if lines_of}
    return filled | {"words": [*explained(line for lines_of in filled.values() for line in lines_of), TERMS_MORE]}


def _steps_to_do(story: Story) -> list[str]:
    """One a line, and the call of the engine for a load where it is known; pages of earlier versions number none. They
    are the page's, unless the latest verdict, with the same cause, names more of its adapters."""
    details, judged = dict(story.page["details"]), story.judged
    names = {str(story.incident["subject"]), *details.get("adapters", "").split(", ")} - {""}
    said = (details.get(FIRST_ACTION, ""), str(judged.get("action", "")))
    of_page, of_latest = (sum(name in action for name in names) for action in said)
    action = said[1] if of_latest > of_page and judged.get("cause") == story.page["cause"] else said[0]
    call = details.get(RELOAD, "")
    return [*numbered(clauses(action)), *([f"load again: {call}"] if call else [])]


def _from_pods(story: Story) -> list[str]:
    """By the latest verdict where it is open: more of them may have become bad since the page."""
    judged = story.judged
    latest = pods_words(judged["bad_pods"], judged["scored_pods"]) if judged.get("bad_pods") else ""
    pods = latest or dict(story.page["details"]).get(PODS, "")
    return [f"bad responses came from {pods}"] if pods else []


def _what(details: Mapping[str, str]) -> list[str]:
    """A line for each thing that was seen: what is wrong first, and then what was measured and is known beside it."""
    return [*clauses(details.get("seen", "")), *clauses(details.get("in detail", ""))]


def _head(story: Story, now: float) -> str:
    incident = story.incident
    begin, end = _at(incident["opened_at"]), incident["ended_at"]
    lasted = _lasting((now if end is None else _at(end)) - begin)
    last = story.judged.get("last_judged")
    judged = f", last judged {_second(last)} ({_lasting(now - _at(last))} ago)" if last else ""
    is_open = f"[red]OPEN[/red] for {lasted}{judged}"
    state = is_open if end is None else f"[green]ended[/green] {_time(end)}, lasted {lasted}"
    return f"{state}  {escape(str(incident['dedup_key']))}"


def _answered_by(details: Mapping[str, str]) -> str:
    engine = details.get("canaries answered by", "")
    return f"canaries answered by {engine}" if engine else ""


def _notices_of(story: Story) -> str:
    incident, former = story.incident, story.former
    ended = f", which ended {_second(former['ended_at'])}" if former.get("ended_at") else ""
    was = f" ({_words(former['cause'])})" if ended else ""
    again = f", reopened within a day of the one before{ended}{was}" if incident["reopened"] else ""
    urgency = f"; {incident['severity']}" if incident["severity"] else ""  # of rows before the column nothing is known
    owner = f", owner {incident['owner']}" if incident["owner"] else ""
    sent = f"{counted(int(incident['notices']), 'notice')} by {', '.join(map(str, incident['pods']))}"
    return f"{sent}{urgency}{owner}{again}"


def _with_pagerduty(story: Story, pagerduty: PagerDuty) -> Story:
    """With what its configuration leads to."""
    incident = story.incident
    names = (_runbook_of(story.page), str(incident["subject"]), str(incident["base"]), str(incident["pods"][0]))
    pages = {link.text: link.href for link in links_about(About(*names), pagerduty)}
    is_open = incident["ended_at"] is None
    return replace(story, links=pages, answered=_answered(pagerduty, str(incident["dedup_key"])) if is_open else "")


def _answered(pagerduty: PagerDuty, dedup_key: str) -> str:
    """Who has acknowledged an open incident; "" without a token, which is for asking."""
    if pagerduty.api_token_file is None:
        return ""
    try:
        with httpx.Client(timeout=ASK_S) as http:
            incident = open_incident(http, pagerduty.api_url, pagerduty.api_token_file, dedup_key)
    except Retryable as error:
        return f"PagerDuty does not tell who works on it: {error}"
    if incident is None:
        return "at PagerDuty nothing is open under its key: somebody has resolved it there"
    who = ", ".join(f"{name} ({at})" for name, at in incident.acknowledged_by)
    return " ".join(
        ["at PagerDuty", f"acknowledged by {who}" if who else "nobody has acknowledged it", incident.url]
    ).strip()


def _since(story: Story) -> list[str]:
    onset, since = clauses(dict(story.page["details"]).get("onset", "")), story.since
    times = {
        "after": since.get("onset_after") if not since.get("onset_latest") else None,
        "by": since.get("onset_by") if not since.get("onset_latest") else None,
        "first page": story.incident["opened_at"],
        "last judged healthy": since.get("last_healthy"),
    }
    known = {name: _second(at) for name, at in times.items() if at}
    if known.get("after") == known.get("by"):
        known.pop("after", None)
    day = min(known.values())[: len("2026-11-28 ")]
    short = [f"{name} {at.removeprefix(day).removesuffix(' UTC')}" for name, at in known.items()]
    began = [] if "by" in known else onset[:1]
    return ["; ".join([*began, f"{day}{', '.join(short)} UTC"])]


def _waiting(story: Story) -> list[str]:
    """That an incident of responses cannot end, or be seen to be over, while none comes."""
    if not story.responses:
        return []
    latest = _at(story.responses[0]["at"])
    if story.asked_at - latest < QUIET_S or not math.isfinite(story.asked_at):
        return []
    return [
        f"no response was sampled after {_second(story.responses[0]['at'])}: until new ones come, none shows "
        "whether the fault is mended"
    ]


def _course(story: Story) -> list[str]:
    if not story.course:
        return []
    levels = [_number(row["log_e"]) for row in story.course]
    threshold = _number(story.course[-1]["log_threshold"])
    begin, end = _time(story.course[0]["at"]), _time(story.course[-1]["at"])
    kept = [_number(row["retention"]) for row in story.course]
    lines = []
    if known := [level for level in levels if math.isfinite(level)]:
        most = f"{number(max(known), 1)} nats at most; a page takes {number(threshold, 1)} (╌)"
        lines = [*column_chart(levels, threshold), most]
    if any(map(math.isfinite, kept)):
        lines.append(f"{sparkline(kept)} retention")
    return [*lines, f"{begin} to {end}"]


def _changed(story: Story) -> list[str]:
    """What was another one just before the onset, adapters of one change together; else that no file was."""
    together: dict[str, list[str]] = {}
    for row in story.changes:
        parts = [_moved(story, row, part, *names) for part, names in PARTS.items() if part in row["changed"]]
        facts = [str(fact) for fact in row["facts"] if fact not in row["facts_before"]]
        if not parts and not facts and _is_otherwise(row):
            continue
        line = f"{_second(row['at'])} {row['pod']}: {'; '.join([*parts, *facts]) or 'what was noticed before is over'}"
        together.setdefault(line, []).append(str(row["adapter"]))
    if together:
        lines = [f"{line} ({first_names(names)})" for line, names in together.items()]
        more = len(lines) - SHOWN
        return [*lines[:SHOWN], *([f"and {more} more: gapwatch query identity"] if more > 0 else [])]
    moved = [part for part in ("base", "adapter") if _is_moved(story.since, part)]
    if moved:
        return [f"{' and '.join(moved)}: other files than in the last healthy round"]
    return ["no file within half an hour before: look at the serving engine" if story.since else ""]


def _is_otherwise(row: Row) -> bool:
    """Is a file in place that is not the accepted one? Then nothing is over because a round says less of it."""
    pairs = [(row.get(f"accepted_{part}"), row[f"live_{part}"]) for part in ("base", "adapter")]
    return any(accepted and live and accepted != live for accepted, live in pairs)


def _moved(story: Story, row: Row, part: str, before: str, after: str) -> str:
    said = dict(story.page["details"]).get(f"hash {part}", "") == f"{row[after]} as accepted"
    accepted = said or (bool(row[after]) and row.get(f"accepted_{part}") == row[after])
    return f"{part} {_short(row[before])} → {_short(row[after])}{' as accepted' if accepted else ''}"


def _touched(story: Story) -> list[str]:
    if not story.requests:
        return [NOT_COUNTED if story.since else ""]
    total = sum(int(row["requests"]) for row in story.requests)
    parts = [
        f"{row['adapter']} on {row['pod'] or 'a pod without a name'} {row['requests']:,}" for row in story.requests
    ]
    more = f", and {len(parts) - SHOWN} more" if len(parts) > SHOWN else ""
    began, last = _at(story.requests[0]["onset"]) // 60 * 60, max(_at(row["last_minute"]) for row in story.requests)
    minutes = round((last - began) / 60) + 1
    counted_in = f"in {counted(minutes, 'whole minute')}, about {total / minutes:,.0f} a minute"
    quiet = story.incident["ended_at"] is None and QUIET_S + 60.0 <= story.asked_at - last < math.inf
    nothing = f"nothing was counted since {_time(_in_utc(last + 60.0))}" if quiet else ""
    return [
        f"{total:,} requests since {_time(story.requests[0]['onset'])} {counted_in}: {', '.join(parts[:SHOWN])}{more}",
        *_users_and_silence(story, nothing),
    ]


def _users_and_silence(story: Story, nothing: str) -> list[str]:
    """nothing: that nothing was counted since some time, "" where there was"""
    users = _requesters(story)
    if nothing and users == NO_USERS:
        return [f"{nothing}; {NO_USERS.partition(':')[0]}"]
    return [*([nothing] if nothing else []), users]


def _requesters(story: Story) -> str:
    """How many users there were, of the sampled requests: there are more."""
    named = [row for row in story.requesters if int(row["naming"])]
    if not named:
        return NO_USERS
    each = ", ".join(f"{row['adapter']} {int(row['requesters']):,}" for row in named[:SHOWN])
    sampled, naming = (sum(int(row[name]) for row in story.requesters) for name in ("sampled", "naming"))
    return (
        f"users, sessions or tenants, at least: {each}; by {counted(sampled, 'sampled request')}, of which {naming:,} "
        "name one"
    )


def _flipped(story: Story) -> list[str]:
    """Texts that changed in this incident, the worst of them beside the accepted one."""
    opened, ended = _at(story.incident["opened_at"]), story.incident["ended_at"]
    last = math.inf if ended is None else _at(ended)
    flips = [row for row in story.flips if opened - FLIPPED_BEFORE_S <= _at(row["at"]) <= last]
    if not flips:
        former = [_at(row["at"]) for row in story.flips if _at(row["at"]) < opened - FLIPPED_BEFORE_S]
        return [NO_FLIPS.format(at=_second(_in_utc(max(former))))] if former else []
    lost = sum(row["task"] == "lost" for row in flips)
    worst = min(flips, key=lambda row: _number(row["retention"]))
    return [
        f"{counted(len(flips), 'text')} changed{f', {lost} fail their own check now' if lost else ''}",
        f"{worst['adapter']} on {worst['canary']}, accepted: {_cut(worst['golden_text'])}",
        f"{worst['adapter']} on {worst['canary']}, now:      {_cut(worst['present_text'])}",
    ]


def _roll_back(story: Story) -> list[str]:
    """As this team does it; and back to the files of the last healthy round, or forward to the present ones."""
    how = dict(story.page["details"]).get(ROLL_BACK, "")
    return [*([f"how your team rolls back: {how}"] if how else []), *_files_to_put_back(story)]


def _files_to_put_back(story: Story) -> list[str]:
    since, incident = story.since, story.incident
    back = [
        f"put back the {part} {_short(since[f'healthy_{part}'])} (in place now: {_short(since[f'live_{part}'])})"
        for part in ("base", "adapter")
        if _is_moved(since, part)
    ]
    if not back:
        return []
    name = quote(str(incident["subject"])) if incident["subject_kind"] == SubjectKind.ADAPTER.value else "ADAPTER"
    return [
        *back,
        f"if the change was meant, see first that the adapter still does its task; then gapwatch enrol {name} "
        "--replace --why TEXT makes what is served now the accepted behaviour, and ends the incident",
    ]


def _healthy_by(incident: Row, details: Mapping[str, str]) -> str:
    """The command that says whether the fault is mended."""
    members = [name for name in details.get("adapters", "").split(", ") if name]
    is_adapter = incident["subject_kind"] == SubjectKind.ADAPTER.value
    names = [str(incident["subject"])] if is_adapter else members[:SHOWN]
    probe = " ".join(["gapwatch probe", *map(quote, names)])
    return f"{probe} ends with exit code 0: one round, now, which pages nobody (1: degraded, 2: cannot tell)"


def _rounds_to_end(details: Mapping[str, str]) -> list[str]:
    """How many good rounds in a row end it, where it was reopened: the number that the runbook leaves open."""
    n = REOPENINGS.match(details.get("reopened", ""))
    return [f"good rounds in a row that end it now: {BY_RESPONSES.needed(int(n[1]))}"] if n else []


def _watch(story: Story) -> list[str]:
    """What its end means: how small a loss would be noticed now."""
    lines = [f"{row['adapter']} {_loss(row)}" for row in story.watched]
    more = f", and {len(lines) - SHOWN} more: gapwatch query watched" if len(lines) > SHOWN else ""
    return [f"it would page again for a loss of strength of: {', '.join(lines[:SHOWN])}{more}"] if lines else []


def _loss(row: Row) -> str:
    if row["smallest_loss"] is None:
        return "not known"
    within = f" within {math.ceil(row['minutes_to_page'])} min" if row["minutes_to_page"] is not None else ""
    return f"{100 * _number(row['smallest_loss']):.3g}%{within}"


def _report(incident: Row) -> str:
    """The command for this very incident, also when there is a later one."""
    at = f"{datetime.fromtimestamp(_at(incident['opened_at']), UTC):%Y-%m-%dT%H:%M:%S}"
    name = quote(f"{incident['subject_kind']}/{incident['subject']}@{at}")
    each = " --each" if incident["subject_kind"] == SubjectKind.BASE.value else ""
    return f"gapwatch report --incident {name}{each}: beside healthy time, as HTML"


def _is_moved(since: Row, part: str) -> bool:
    before, after = since.get(f"healthy_{part}") or "", since.get(f"live_{part}") or ""
    return bool(before and after and before != after)


def _at(value: Any) -> float:
    """A time as the store gives it, or as JSON from a running agent has it; in seconds since the epoch."""
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _time(value: Any) -> str:
    return f"{datetime.fromtimestamp(_at(value), UTC):%Y-%m-%d %H:%M} UTC"


def _second(value: Any) -> str:
    return f"{datetime.fromtimestamp(_at(value), UTC):%Y-%m-%d %H:%M:%S} UTC"


def _in_utc(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)


def _words(name: object) -> str:
    return str(name).replace("_", " ")


def _lasting(seconds: float) -> str:
    minutes = max(0, round(seconds / 60))
    days, hours = minutes // 1440, minutes // 60 % 24
    return f"{days} d {hours} h" if days else f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _short(identity: object) -> str:
    """``sha256:3f21260595ad``; what is no hash as it is."""
    words = str(identity)
    return (words[:19] if words.startswith("sha256:") else words) or "not known"


def _cut(text: object) -> str:
    """On one line, and not longer than the screen is wide."""
    flat = " ".join(str(text).split())
    return flat if len(flat) <= TEXT else f"{flat[: TEXT - 3]}..."
