"""gapwatch rejudge: what would today's code, and this configuration, have said about stored rounds?"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from rich.markup import escape

from agent import yaml_document
from agent.alerting.hindsight import COMPARED, SAME_NATS, VerdictPair, alarms, judged_again, verdict_pairs
from agent.assemble import monitor_of
from agent.cli.console import as_json, console, number, rows_table, say
from agent.clock import Clock
from agent.config import Config, parse, seconds
from agent.errors import Refused, Retryable
from agent.store import client as store
from agent.store.stored_rounds import Span, Stored, StoredRounds
from agent.store.table_rows import FIRST, LAST, when
from detectors.monitor import Judged

CANNOT_TELL = 2
SHOWN = 5
HELD = (
    "a running agent holds it, and does not hand out whole rounds: stop that agent for as long as this takes, or keep "
    "rounds on a ClickHouse server, which both may ask"
)


@dataclass(frozen=True, slots=True)
class RejudgeOptions:
    """What is asked for. since, until: a time, or how long ago; lead_in: judged before that, and not shown

    adapter: show this one and its base alone; changes: "place=value" over the configuration; changed: differences alone
    """

    since: str = "24h"
    until: str = ""
    lead_in: str = "24h"
    adapter: str = ""
    changes: Sequence[str] = ()
    changed: bool = False


def rejudge(path: Path, wish: RejudgeOptions, json: bool) -> int:
    """0 when it ran, whatever differs; 2 where the store holds no round of that span. Raises Refused, Retryable.

    Nothing is written and nobody is told.
    """
    config = configured(path, wish.changes)
    if wish.adapter:
        config.adapter(wish.adapter)
    span, before = _spans(wish, Clock().now())
    client = _connected(config)
    try:
        stored = StoredRounds(client, config.cluster, config.probes.golden_dir)
        again = list(judged_again(stored.rounds(before), partial(monitor_of, config)))
        found = verdict_pairs(again, stored.verdicts(span), span.since)
        earlier = stored.earlier_responses(span)
    finally:
        client.close()
    seen = [(one, judged) for one, judged in again if one.at >= span.since]
    if not seen:
        told = f"no round of cluster {config.cluster} is stored from {_time(span.since)} to {_time(span.until)}"
        sys.stderr.write(f"{told}\n")
        return CANNOT_TELL
    bases = [config.adapter(wish.adapter)[0].name] if wish.adapter else []
    shown = [one for one in found if not wish.adapter or one.subject in (wish.adapter, *bases)]
    report = _report(span, seen, shown, earlier) | {"evidence_from": _time(again[0][0].at)}
    if json:
        as_json(report | {"verdicts": [_as_row(one) for one in shown if one.differs or not wish.changed]})
    else:
        _show([one for one in shown if one.differs or not wish.changed], report)
    return 0


def configured(path: Path, changes: Sequence[str]) -> Config:
    """The file with some of its values changed: ``models.0.adapters.0.tolerance=0.1``. Raises Refused."""
    data = yaml_document.read(path)
    for change in changes:
        place, equals, value = change.partition("=")
        if not equals:
            raise Refused("--set", repr(change), "place=value, as in models.0.adapters.0.tolerance=0.1")
        try:
            _put(data, place, yaml_document.value(value))
        except yaml.YAMLError:
            raise Refused(f"--set {place}", repr(value), "a value as YAML has it") from None
    return parse(data, path)


def _put(data: Any, place: str, value: Any) -> None:
    *sections, last = place.split(".")
    for name in sections:
        if isinstance(data, dict) and data.get(name) is None:
            data[name] = {}
        data = data[_key(data, name, place)]
    data[_key(data, last, place)] = value


def _key(data: Any, name: str, place: str) -> str | int:
    if isinstance(data, dict):
        return name
    if isinstance(data, list) and name.isdecimal() and int(name) < len(data):
        return int(name)
    wanted = f"a number below {len(data)}" if isinstance(data, list) else "a section that can hold it"
    raise Refused(f"--set {place}", repr(name), wanted)


def _spans(wish: RejudgeOptions, now: float) -> tuple[Span, Span]:
    """What is shown, and what is judged, within the years that the store holds. Raises Refused."""
    since, until = _moment("--since", wish.since, now), _moment("--until", wish.until or "0s", now)
    if since > until:
        raise Refused("--since", _time(since), f"a time before {_time(until)}")
    try:
        lead_in = seconds(wish.lead_in)
    except ValueError as error:
        raise Refused("--lead-in", repr(wish.lead_in), str(error)) from None
    first, since, until = (min(max(at, FIRST), LAST) for at in (since - lead_in, since, until))
    return Span(since, until), Span(first, until)


def _moment(option: str, told: str, now: float) -> float:
    """``6h`` before now, or a time as ISO 8601 has it, UTC where it names no zone. Raises Refused."""
    if re.fullmatch(r"\d+(\.\d+)?(ms|s|m|h|d)", told):
        return now - seconds(told)
    try:
        at = datetime.fromisoformat(told)
    except ValueError:
        raise Refused(option, repr(told), 'a time such as "2026-03-01T12:00" (UTC), or how long ago: "6h"') from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _connected(config: Config) -> store.Client:
    try:
        return store.connect(config.clickhouse.dsn, config.clickhouse.password_file)
    except Retryable as error:
        raise (Retryable(error.where, HELD) if error.why == store.HELD else error) from None


def _report(
    span: Span, seen: Sequence[tuple[Stored, Judged | None]], found: Sequence[VerdictPair], earlier: int
) -> dict[str, Any]:
    """All but the verdicts. earlier: rounds of responses of an earlier version"""
    lost = [one for one, judged in seen if judged is None]
    uncompared = [one for one in found if one.why_not]
    return {
        "since": _time(span.since),
        "until": _time(span.until),
        "rounds": len(seen) - len(lost),
        "not_judged": [{"round": _name(one), "why": one.why} for one in lost],
        "earlier_versions": {"rounds": sum(not one.complete for one, _ in seen), "response_rounds": earlier},
        "verdicts_compared": len(found) - len(uncompared),
        "not_compared": len(uncompared),
        "differ": sum(one.differs for one in found),
        "largest_difference_nats": max((one.nats_apart for one in found), default=0.0),
        "alarms": {side: _alarms(alarms(found, side)) for side in ("then", "now")},
    }


def _alarms(found: Sequence[VerdictPair]) -> dict[str, Any]:
    first = min(found, key=lambda one: one.at, default=None)
    told = None if first is None else {"at": _time(first.at), "subject": first.subject, "round": first.round}
    return {"count": len(found), "first": told}


def _show(found: Sequence[VerdictPair], report: Mapping[str, Any]) -> None:
    pods = {one.pod for one in found}
    columns = ["", "at", "subject", "round", "then", "now", "nats then, now"]
    rows = [
        (
            "?" if one.why_not else "≠" if one.differs else "",
            _time(one.at),
            f"{'base ' if one.kind == 'base' else ''}{one.subject}{f' ({one.pod})' if len(pods) > 1 else ''}",
            one.round,
            _words(one.then),
            _words(one.now),
            f"{_nats(one.then)}, {_nats(one.now)}",
        )
        for one in found
    ]
    console.print(rows_table(columns, rows, title="verdicts then and now"))
    for line in _lines(report):
        say(escape(line))


def _lines(report: Mapping[str, Any]) -> list[str]:
    """The summary, and what is not as it was."""
    then, now = (report["alarms"][side] for side in ("then", "now"))
    lines = [
        f"{report['rounds']} rounds judged again, evidence from {report['evidence_from']} on: {report['differ']} of "
        f"{report['verdicts_compared']} verdicts differ; alarms then {then['count']}, now {now['count']}; first alarm "
        f"then {_first(then)}, now {_first(now)}; evidence differs by {report['largest_difference_nats']:.2g} nats at "
        "most"
    ]
    if report["largest_difference_nats"] > SAME_NATS and not report["differ"]:
        lines.append("Evidence differs where no verdict does: its beginning lies before the first round judged again.")
    lost = report["not_judged"]
    if lost:
        named = "; ".join(f"{one['round']}: {one['why']}" for one in lost[:SHOWN])
        more = f"; and {len(lost) - SHOWN} more (--json names them)" if len(lost) > SHOWN else ""
        lines.append(f"{len(lost)} rounds are not all there and were not judged: {named}{more}")
    earlier = report["earlier_versions"]
    if earlier["rounds"]:
        lines.append(
            f"{earlier['rounds']} rounds are of an earlier version: the order of their canaries is not known, so "
            "evidence may differ in its last digits, and raw canaries that were lost do not show"
        )
    if earlier["response_rounds"]:
        lines.append(
            f"{earlier['response_rounds']} rounds of responses are of an earlier version, which stored too little of "
            "them: they were not judged, and verdicts that rest on them differ"
        )
    if report["not_compared"]:
        lines.append(f"{report['not_compared']} verdicts (?) have nothing to be compared with: --json says why")
    return lines


def _first(side: Mapping[str, Any]) -> str:
    first = side["first"]
    return f"{first['at']} ({first['subject']}, round {first['round']})" if first else "none"


def _words(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "-"
    cause = "" if row["cause"] == "none" else f", {row['cause']}"
    return f"{row['status']}: {row['reason']}{cause}".replace("_", " ")


def _nats(row: Mapping[str, Any] | None) -> str:
    return "-" if row is None else number(float(row["log_e"]), 1)


def _as_row(one: VerdictPair) -> dict[str, Any]:
    def said(row: Mapping[str, Any] | None) -> dict[str, Any] | None:
        return None if row is None else {name: row[name] for name in (*COMPARED, "log_e")}

    return {
        "pod": one.pod,
        "at": _time(one.at),
        "subject_kind": one.kind,
        "subject": one.subject,
        "base": one.base,
        "round": one.round,
        "then": said(one.then),
        "now": said(one.now),
        "differs": one.differs,
        "not_compared": one.why_not,
    }


def _name(one: Stored) -> str:
    return f"{'canaries' if one.by_canaries else 'responses'} of {one.base}, round {one.number} at {_time(one.at)}"


def _time(at: float) -> str:
    return when(at).isoformat(sep=" ", timespec="seconds").removesuffix("+00:00")
