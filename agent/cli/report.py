"""gapwatch report: a healthy window and an incident side by side, as one HTML file that loads nothing.

The comparison is Evidently's (extra ``report``); windows, story and plots are of the store. It needs the store alone,
or the running agent that has the embedded one open.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from agent.cli.explain import YEARS_D, Story, parts_of, story_of
from agent.cli.query import Ask, asking
from agent.clock import Clock
from agent.config import Config, load, moment
from agent.errors import Refused
from agent.report.contents import COMPARED, LEAST, Rows, contents_of, number_of
from agent.report.evidently_report import compared, described
from agent.report.page import Course, Report, differences, rendered
from agent.report.plots import shown_span
from agent.report.windows import Span, Windows, lasting, seconds_of, utc, windows_of, within
from agent.terminal.console import as_json, console, say
from detectors.records import SubjectKind

CANNOT_TELL = 2
HOUR_S = 3600.0
BETWEEN = ".."
# What is not in the name of a file that is named after an adapter.
NO_FILE_NAME = re.compile(r"[^\w.-]+")
# Questions count whole seconds: they are asked for a little more, and what is beyond the edges is left out here. So a
# canary is asked for several rounds, of which one is used.
EDGE_S, DRAWS = 2.0, 3
# Stretches that the plots are made of, and rows of requests and of embeddings that a window is asked for.
POINTS, REQUESTS, EMBEDDINGS = 240, 2000, 2 * COMPARED
# Parts of the story that are on the page in a better form, or are the page.
NOT_TOLD = ("evidence", "compare")
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """Options of the command. incident: as ``gapwatch explain`` takes it; with ``healthy``, FROM..TO like that one

    adapter: "" for the incident's own; force: replace files that exist
    each: of a base's incident one file for each of its adapters, ``OUT-ADAPTER.html``
    """

    adapter: str = ""
    healthy: str = ""
    incident: str = ""
    out: Path = Path("gapwatch-report.html")
    force: bool = False
    each: bool = False


@dataclass(frozen=True, slots=True)
class _Chosen:
    """What is reported. subject: whose evidence is drawn; story: None where the windows were given by hand"""

    adapter: str
    subject: str
    windows: Windows
    story: Story | None = None


def report(path: Path, options: ReportOptions, json: bool) -> int:
    """Write the report and say what differs. 2 where there is no incident, which writes none, or nothing to compare in
    any file.

    Raises Refused for a window or a name that makes no sense, for a file that exists, and without the extra.
    """
    config = load(path)
    if options.each and (options.adapter or options.healthy):
        raise Refused("--each", "--adapter or --healthy beside it", "it alone: a base's incident says which adapters")
    if not options.each:
        _refuse_to_replace([options.out], options.force)
    with asking(config) as ask_one:
        store = _Store(ask_one, config.cluster)
        chosen = _by_hand(options, config) if options.healthy else _by_incident(store, options, config)
        if chosen is None:
            whose = f" of {options.adapter}" if options.adapter else ""
            say(f"no incident is stored{whose}: give --healthy and --incident as FROM..TO")
            return CANNOT_TELL
        every = _each_adapter(chosen) if options.each else [chosen]
        files = _files(options.out, [each.adapter for each in every]) if options.each else [options.out]
        _refuse_to_replace(files, options.force)
        reports = [_made(store, each) for each in every]
    for made, out in zip(reports, files, strict=True):
        out.write_text(rendered(made), encoding="utf-8")
    _show_all(reports, files, json)
    return 0 if any(made.drift is not None for made in reports) else CANNOT_TELL


def _refuse_to_replace(files: Sequence[Path], force: bool) -> None:
    for file in files:
        if file.exists() and not force:
            raise Refused("--out", f"{file}, which exists", "another file, or --force")


def _each_adapter(chosen: _Chosen) -> list[_Chosen]:
    """The adapters of its incident, in the same windows."""
    return [replace(chosen, adapter=name) for name in _others(chosen) or (chosen.adapter,)]


def _files(out: Path, adapters: Sequence[str]) -> list[Path]:
    """``OUT-ADAPTER.html``; of names that differ in what no file should be called alone, with a number."""
    slugs = [NO_FILE_NAME.sub("-", name) for name in adapters]
    numbered = [f"{i}-{slug}" if slugs.count(slug) > 1 else slug for i, slug in enumerate(slugs, 1)]
    return [out.with_name(f"{out.stem}-{name}{out.suffix}") for name in numbered]


class _Store:
    """Questions about a stretch of time. Each is asked as so many hours before this moment."""

    def __init__(self, ask_one: Ask, cluster: str) -> None:
        self._ask, self._clock, self.ask_one, self.cluster = ask_one, Clock(), ask_one, cluster

    def now(self) -> float:
        return self._clock.now()

    def rows(self, name: str, **params: str) -> list[Row]:
        columns, rows = self._ask(name, {"cluster": self.cluster, **params})
        return [dict(zip(columns, row, strict=True)) for row in rows]

    def of_span(self, name: str, span: Span, **params: str) -> list[Row]:
        """Rows of that time, both ends included."""
        now = self.now()
        ago = {"hours": now - span.begin + EDGE_S, "until_hours": max(0.0, now - span.end - EDGE_S)}
        return self.rows(name, **{key: f"{seconds / HOUR_S:.7f}" for key, seconds in ago.items()}, **params)

    def within(self, name: str, spans: Sequence[Span], **params: str) -> list[Mapping[str, Any]]:
        return [row for span in spans for row in within([span], self.of_span(name, span, **params))]


def _by_hand(options: ReportOptions, config: Config) -> _Chosen:
    """Both windows as FROM..TO."""
    if not options.adapter:
        raise Refused("--healthy", "no --adapter beside it", "the adapter whose windows these are")
    _, adapter = config.adapter(options.adapter)
    now = Clock().now()
    healthy, incident = (
        _span(option, text, now) for option, text in (("--healthy", options.healthy), ("--incident", options.incident))
    )
    if healthy.begin < incident.end and incident.begin < healthy.end:
        raise Refused("--healthy", "a time that is in --incident too", "two windows that do not overlap")
    return _Chosen(adapter.name, adapter.name, Windows((healthy,), incident))


def _span(option: str, text: str, now: float) -> Span:
    begin, separator, end = text.partition(BETWEEN)
    if not separator:
        wanted = 'FROM..TO, such as "6h..2h" ago or "2026-03-01T12:00..2026-03-01T14:00" (UTC)'
        raise Refused(option, repr(text), wanted)
    span = Span(moment(option, begin, now), moment(option, end, now))
    if span.length <= 0:
        raise Refused(option, f"{utc(span.begin)} to {utc(span.end)}", "an end after its begin")
    return span


def _by_incident(store: _Store, options: ReportOptions, config: Config) -> _Chosen | None:
    """The incident that is named, else the latest that is open, or ended, of the adapter or of its base."""
    every = store.rows("incidents", days=str(YEARS_D))
    names = _names_of(options.adapter, config) if options.adapter else ()
    listed = [f"{row['subject_kind']}/{row['subject']}" for row in every]
    wanted = options.incident or next((name for name in listed if not names or name in names), "")
    story = story_of(store.ask_one, wanted, store.cluster, store.now()) if wanted else None
    if story is None:
        return None
    incident = story.incident
    adapter = options.adapter or _adapter_of(story)
    around = {str(incident["subject"]), str(incident["base"]), adapter}
    related = [row for row in every if row["subject"] in around]
    itself = next(row for row in related if _same(row, incident))
    onsets = [row for subject in sorted(around) for row in store.rows("onsets", subject=subject, days=str(YEARS_D))]
    windows = windows_of(itself, related, onsets, store.now())
    return _Chosen(adapter, str(incident["subject"]), windows, story)


def _names_of(adapter: str, config: Config) -> tuple[str, str]:
    """Of the incidents that concern it: its own, and its base's."""
    model, _ = config.adapter(adapter)
    return f"{SubjectKind.ADAPTER}/{adapter}", f"{SubjectKind.BASE}/{model.name}"


def _same(row: Row, incident: Row) -> bool:
    return all(row[name] == incident[name] for name in ("dedup_key", "opened_at"))


def _adapter_of(story: Story) -> str:
    """Of a base's incident the first adapter that the page names."""
    if story.incident["subject_kind"] == SubjectKind.ADAPTER.value:
        return str(story.incident["subject"])
    return str(dict(story.page["details"]).get("adapters", "")).split(", ")[0] or str(story.incident["subject"])


def _made(store: _Store, chosen: _Chosen) -> Report:
    windows = chosen.windows
    healthy, incident = (_rows(store, chosen.adapter, spans) for spans in (windows.healthy, [windows.incident]))
    contents = contents_of(healthy, incident)
    columns = (*contents.columns, *described(contents.texts))
    contents = replace(contents, columns=columns)
    drift = compared(columns) if columns else None
    return Report(
        str(chosen.story.page["summary"]) if chosen.story else f"{chosen.adapter} in two windows",
        chosen.adapter,
        windows,
        contents,
        drift,
        _course(store, chosen),
        _story(chosen.story),
        utc(store.now()),
        _others(chosen),
    )


def _others(chosen: _Chosen) -> tuple[str, ...]:
    """The adapters that a base's incident is of, the reported one first; () where it is of one."""
    names = dict(chosen.story.page["details"]).get("adapters", "") if chosen.story else ""
    members = [name for name in names.split(", ") if name]
    rest = [name for name in members if name != chosen.adapter]
    return (chosen.adapter, *rest) if len(members) > 1 and rest else ()


def _rows(store: _Store, adapter: str, spans: Sequence[Span]) -> Rows:
    many = {"subject": adapter, "limit": str(EMBEDDINGS)}
    drawn = store.within("canary_draws", spans, subject=adapter, each=str(DRAWS))
    return Rows(
        [row for row in drawn if row["adapter"] == adapter],
        store.within("sampled_requests", spans, subject=adapter, limit=str(REQUESTS)),
        {side: store.within("embedded", spans, side=side, **many) for side in ("prompt", "output")},
    )


def _course(store: _Store, chosen: _Chosen) -> Course:
    """Evidence of the incident's subject, retention of the adapter."""
    rows = {
        subject: store.of_span("course", shown_span(chosen.windows), subject=subject, points=str(POINTS))
        for subject in {chosen.subject, chosen.adapter}
    }
    levels = rows[chosen.subject]
    threshold = number_of(levels[-1]["log_threshold"]) if levels else math.nan
    return Course(_series(levels, "log_e"), _series(rows[chosen.adapter], "retention"), threshold)


def _series(rows: Sequence[Row], name: str) -> list[tuple[float, float]]:
    return [(seconds_of(row["at"]), number_of(row[name])) for row in rows]


def _story(story: Story | None) -> Mapping[str, Sequence[str]]:
    """As ``gapwatch explain`` has it."""
    return {title: lines for title, lines in parts_of(story).items() if title not in NOT_TOLD} if story else {}


def _show_all(reports: Sequence[Report], files: Sequence[Path], json: bool) -> None:
    """Of several a list."""
    if json:
        answers = [_to_json(made, out) for made, out in zip(reports, files, strict=True)]
        as_json(answers if len(answers) > 1 else answers[0])
        return
    for made, out in zip(reports, files, strict=True):
        _show(made, out, alone=len(reports) == 1)


def _to_json(made: Report, out: Path) -> dict[str, Any]:
    rows = differences(made.contents.columns, made.drift)
    return {
        "out": str(out),
        "adapter": made.adapter,
        "windows": {
            "healthy": [span._asdict() for span in made.windows.healthy],
            "incident": made.windows.incident._asdict(),
        },
        "counts": made.contents.counts,
        "level": made.drift.level if made.drift else None,
        "columns": [asdict(row) for row in rows],
        "lacking": made.contents.lacking,
    }


def _show(made: Report, out: Path, alone: bool) -> None:
    rows = differences(made.contents.columns, made.drift)
    healthy, incident = sum(span.length for span in made.windows.healthy), made.windows.incident.length
    words = f"{made.adapter}: {lasting(healthy)} healthy against {lasting(incident)} of the incident"
    console.print(words, markup=False)
    differing = [row for row in rows if row.differs]
    if made.of_several and alone:
        another = made.of_several[1]
        say(f"the incident is of {len(made.of_several)} adapters: --each for all, --adapter {another} for another one")
    say(_differing_in_words(len(differing), len(rows)) if rows else _too_little(made))
    for row in differing:
        console.print(f"  {row.title}: {row.healthy} -> {row.incident}, p {row.p_value}", markup=False)
    for line in made.contents.lacking:
        console.print(f"not in the store: {line}", markup=False)
    say(f"written: {out.resolve()}")


def _too_little(made: Report) -> str:
    """What there is of the incident, so that a reader knows whether to wait for more."""
    there = ", ".join(f"{what} {after}" for what, (_, after) in made.contents.counts.items())
    return (
        f"nothing to compare: too little of the incident is stored so far, since {utc(made.windows.incident.begin)} "
        f"({there}; {LEAST} of a kind are needed): try again later, or give other times with --healthy and --incident"
    )


def _differing_in_words(differing: int, compared: int) -> str:
    """Of how many figures, more than none, and what it means that none does: it clears nobody."""
    of_all = f"of {compared} figures of canaries and requests"
    if differing:
        return f"{differing} {of_all} are distributed otherwise in the incident than in the healthy time:"
    return (
        f"none {of_all} is distributed otherwise in the incident than in the healthy time; that does not clear it, "
        "because few rounds show little: the report's plots of retention and evidence are what the page rests on"
    )
