"""gapwatch rejudge: what would today's code, with this configuration, conclude from stored rounds? It only reads."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from rich.markup import escape

from agent import yaml_document
from agent.alerting.hindsight import COMPARED, SAME_NATS, VerdictPair, alarms, judged_again, verdict_pairs
from agent.assemble import monitor_of
from agent.clock import Clock
from agent.config import Config, moment, parse, seconds
from agent.errors import Refused, Retryable
from agent.store import client as store
from agent.store.stored_rounds import Span, Stored, StoredRounds
from agent.store.table_rows import FIRST, LAST, when
from agent.terminal.console import as_json, console, number, rows_table, say
from detectors.monitor import Judged

CANNOT_TELL = 2
SHOWN = 5
HELD = (
    "a running agent has it open, and does not serve whole rounds: stop that agent for as long as this takes, or keep "
    "rounds on a ClickHouse server, which both may query"
)


@dataclass(frozen=True, slots=True)
class RejudgeOptions:
    """Options of the command. since, until: a time, or how long ago; lead_in: judged before that, and not shown

    adapter: show only this one and its base; changes: "place=value" over the configuration; changed: show only
    differences
    """

    since: str = "24h"
    until: str = ""
    lead_in: str = "24h"
    adapter: str = ""
    changes: Sequence[str] = ()
    changed: bool = False


def rejudge(path: Path, wish: RejudgeOptions, json: bool) -> int:
    """0 when it ran, with or without differences; 2 where the store holds no round of that span.

    Nothing is written, and no notice is sent. Raises Refused, Retryable.
    """
    config = configured(path, wish.changes)
    if wish.adapter:
        config.adapter(wish.adapter)
    span, before = _spans(wish, Clock().now())
    client = _connected(config)
    try:
        stored = StoredRounds(client, config.cluster, config.probes.golden_dir)
        monitor = partial(monitor_of, config, stored.most_pods(before))
        again = list(judged_again(stored.rounds(before), monitor))
        pairs = verdict_pairs(again, stored.verdicts(span), span.since)
        earlier = stored.earlier_responses(span)
    finally:
        client.close()
    rounds = [(stored_round, judged) for stored_round, judged in again if stored_round.at >= span.since]
    if not rounds:
        sys.stderr.write(
            f"no round of cluster {config.cluster} is stored from {_time(span.since)} to {_time(span.until)}\n"
        )
        return CANNOT_TELL
    bases = [config.adapter(wish.adapter)[0].name] if wish.adapter else []
    selected = [pair for pair in pairs if not wish.adapter or pair.subject in (wish.adapter, *bases)]
    report = _report(span, rounds, selected, earlier) | {"evidence_from": _time(again[0][0].at)}
    shown = [pair for pair in selected if pair.differs or not wish.changed]
    if json:
        as_json(report | {"verdicts": [_as_row(pair) for pair in shown]})
    else:
        _show(shown, report)
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
    """The span that is shown and the one that is judged, within the years that the store can hold. Raises Refused."""
    since, until = moment("--since", wish.since, now), moment("--until", wish.until or "0s", now)
    if since > until:
        raise Refused("--since", _time(since), f"a time before {_time(until)}")
    try:
        lead_in = seconds(wish.lead_in)
    except ValueError as error:
        raise Refused("--lead-in", repr(wish.lead_in), str(error)) from None
    first, since, until = (min(max(at, FIRST), LAST) for at in (since - lead_in, since, until))
    return Span(since, until), Span(first, until)


def _connected(config: Config) -> store.Client:
    try:
        return store.connect(config.clickhouse.dsn, config.clickhouse.password_file)
    except Retryable as error:
        raise (Retryable(error.where, HELD) if error.why == store.HELD else error) from None


def _report(
    span: Span, rounds: Sequence[tuple[Stored, Judged | None]], pairs: Sequence[VerdictPair], earlier: int
) -> dict[str, Any]:
    """The summary. earlier: rounds of responses of an earlier version, which cannot be judged again"""
    lost = [stored_round for stored_round, judged in rounds if judged is None]
    uncompared = [pair for pair in pairs if pair.why_not]
    return {
        "since": _time(span.since),
        "until": _time(span.until),
        "rounds": len(rounds) - len(lost),
        "not_judged": [{"round": _name(stored_round), "why": stored_round.why} for stored_round in lost],
        "earlier_versions": {"rounds": sum(not head.complete for head, _ in rounds), "response_rounds": earlier},
        "verdicts_compared": len(pairs) - len(uncompared),
        "not_compared": len(uncompared),
        "differ": sum(pair.differs for pair in pairs),
        "largest_difference_nats": max((pair.nats_apart for pair in pairs), default=0.0),
        "alarms": {side: _alarms(alarms(pairs, side)) for side in ("then", "now")},
    }


def _alarms(pairs: Sequence[VerdictPair]) -> dict[str, Any]:
    first = min(pairs, key=lambda pair: pair.at, default=None)
    described = None if first is None else {"at": _time(first.at), "subject": first.subject, "round": first.round}
    return {"count": len(pairs), "first": described}


def _show(pairs: Sequence[VerdictPair], report: Mapping[str, Any]) -> None:
    pods = {pair.pod for pair in pairs}
    columns = ["", "at", "subject", "round", "then", "now", "nats then, now"]
    rows = [
        (
            "?" if pair.why_not else "≠" if pair.differs else "",
            _time(pair.at),
            f"{'base ' if pair.kind == 'base' else ''}{pair.subject}{f' ({pair.pod})' if len(pods) > 1 else ''}",
            pair.round,
            _words(pair.then),
            _words(pair.now),
            f"{_nats(pair.then)}, {_nats(pair.now)}",
        )
        for pair in pairs
    ]
    console.print(rows_table(columns, rows, title="verdicts then and now"))
    for line in _lines(report):
        say(escape(line))


def _lines(report: Mapping[str, Any]) -> list[str]:
    """The summary in sentences, and what limits it."""
    then, now = (report["alarms"][side] for side in ("then", "now"))
    lines = [
        f"{report['rounds']} rounds judged again, evidence from {report['evidence_from']} on: {report['differ']} of "
        f"{report['verdicts_compared']} verdicts differ; alarms then {then['count']}, now {now['count']}; first alarm "
        f"then {_first(then)}, now {_first(now)}; evidence differs by {report['largest_difference_nats']:.2g} nats at "
        "most"
    ]
    if report["largest_difference_nats"] > SAME_NATS and not report["differ"]:
        lines.append("Evidence differs and no verdict does: it began to add up before the first round judged again.")
    lost = report["not_judged"]
    if lost:
        listed = "; ".join(f"{entry['round']}: {entry['why']}" for entry in lost[:SHOWN])
        more = f"; and {len(lost) - SHOWN} more (--json lists them)" if len(lost) > SHOWN else ""
        lines.append(f"{len(lost)} rounds are incomplete and were not judged: {listed}{more}")
    earlier = report["earlier_versions"]
    if earlier["rounds"]:
        lines.append(
            f"{earlier['rounds']} rounds are of an earlier version: the order of their canaries is not known, so "
            "evidence may differ in its last digits, and missing raw canaries cannot be noticed"
        )
    if earlier["response_rounds"]:
        lines.append(
            f"{earlier['response_rounds']} rounds of responses are of an earlier version, which stored too little; "
            "they were not judged, and verdicts that rest on them differ"
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


def _as_row(pair: VerdictPair) -> dict[str, Any]:
    def verdict(row: Mapping[str, Any] | None) -> dict[str, Any] | None:
        return None if row is None else {name: row[name] for name in (*COMPARED, "log_e")}

    return {
        "pod": pair.pod,
        "at": _time(pair.at),
        "subject_kind": pair.kind,
        "subject": pair.subject,
        "base": pair.base,
        "round": pair.round,
        "then": verdict(pair.then),
        "now": verdict(pair.now),
        "differs": pair.differs,
        "not_compared": pair.why_not,
    }


def _name(stored_round: Stored) -> str:
    kind = "canaries" if stored_round.by_canaries else "responses"
    return f"{kind} of {stored_round.base}, round {stored_round.number} at {_time(stored_round.at)}"


def _time(at: float) -> str:
    return when(at).isoformat(sep=" ", timespec="seconds").removesuffix("+00:00")
