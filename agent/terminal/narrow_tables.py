"""How the answer of an on-call question is shown to a person: one line a row, in few columns, with what it adds up to.

What is left out is in ``--json`` and ``--csv``, which the last line says. Pure; questions that are not named here are
shown as they are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from detectors.records import SubjectKind
from detectors.traffic.response_summary import AGAINST

Row = Mapping[str, Any]
Table = tuple[list[str], list[Sequence[Any]]]
"""Columns and rows."""
FULL = "all columns, and hashes in full: --json or --csv"
# Characters of a digest that tell two of them apart, and of a text that fit beside another.
DIGEST, TEXT = 12, 40
TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
# The column of the day, while a table is made; columns that may stand once for all rows.
DAY = "day (UTC)"
SAID_ONCE = ("pod", "by", "cause", "answered by", "a page takes", "base now")
SAYS_NOTHING = "scored on the token ids of its text: its record has none"


class Narrow(NamedTuple):
    """columns: heading -> its cell; sums: lines behind the table, of all rows"""

    columns: Mapping[str, Callable[[Row], Any]]
    sums: Callable[[Sequence[Row]], list[str]] = lambda _: []


def narrowed(name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> tuple[Table, list[str]]:
    """What is shown of an answer, and the lines that are printed under it; all of it where nothing is left out."""
    if name not in NARROW or not rows:
        return (list(columns), list(rows)), []
    narrow = NARROW[name]
    records = [dict(zip(columns, row, strict=True)) for row in rows]
    cells = [[cell(record) for cell in narrow.columns.values()] for record in records]
    shown = {heading: [row[at] for row in cells] for at, heading in enumerate(narrow.columns)}
    shown = {name: own for name, own in shown.items() if name in ALWAYS or any(map(_is_said, own))}
    shown, same = _without_what_is_the_same(_of_one_day(shown))
    cells_of_rows: list[Sequence[Any]] = list(zip(*shown.values(), strict=True))
    return (list(shown), cells_of_rows), [
        *([f"of all: {', '.join(same)}"] if same else []),
        *narrow.sums(records),
        FULL,
    ]


def _of_one_day(shown: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """Times without their day, which then stands once, where all are of the same."""
    times = [str(cell) for own in shown.values() for cell in own if TIME.fullmatch(str(cell))]
    days = {time[:10] for time in times}
    if len(days) != 1:
        return dict(shown)
    cut = {name: [str(c)[11:] if TIME.fullmatch(str(c)) else c for c in own] for name, own in shown.items()}
    return cut | {DAY: [days.pop()] * len(next(iter(shown.values())))}


def _without_what_is_the_same(shown: dict[str, list[Any]]) -> tuple[dict[str, list[Any]], list[str]]:
    """Columns that say the same in every row, in a line of their own; of one row all stay."""
    same = [
        name
        for name, own in shown.items()
        if name == DAY or (name in SAID_ONCE and len(own) > 1 and len(set(map(str, own))) == 1)
    ]
    return {name: own for name, own in shown.items() if name not in same}, [f"{name} {shown[name][0]}" for name in same]


def _is_said(value: Any) -> bool:
    return value not in (None, "", []) and not (isinstance(value, float) and math.isnan(value))


def _time(name: str) -> Callable[[Row], str]:
    """To the second; the day is that of the line, because a night has two."""
    return lambda row: "" if row[name] is None else str(row[name]).replace("T", " ")[:19]


def _of(name: str) -> Callable[[Row], Any]:
    return lambda row: row[name]


def _number(name: str, digits: int) -> Callable[[Row], str]:
    return lambda row: "" if not _is_said(row[name]) else f"{float(row[name]):z.{digits}f}"


def _text(name: str) -> Callable[[Row], str]:
    def cut(row: Row) -> str:
        flat = " ".join(str(row[name]).split())
        return flat if len(flat) <= TEXT else f"{flat[: TEXT - 3]}..."

    return cut


def digest(identity: object) -> str:
    """``018e14844c6b``, the first digits of a hash; what is no hash as it is."""
    words = str(identity or "")
    return words.removeprefix("sha256:")[:DIGEST] if words.startswith("sha256:") else words


def _beside_accepted(live: object, accepted: object) -> str:
    if not live or not accepted:
        return digest(live)
    return f"{digest(live)} accepted" if live == accepted else f"{digest(live)} (accepted: {digest(accepted)})"


def _then_and_now(healthy: object, live: object) -> str:
    """Of the last healthy verdict before the onset, and of the alarm."""
    return f"{digest(live)} as before" if healthy == live else f"{digest(healthy) or 'not known'} -> {digest(live)}"


def _changed(row: Row) -> str:
    """``base 8010c4f15ace -> 018e14844c6b``, part by part; the facts of loading where no hash is another one."""
    names = {"chat template": "template", "source in the engine": "source"}
    parts = [
        f"{part} {digest(row[f'{names.get(part, part)}_before'])} -> {digest(row[f'live_{names.get(part, part)}'])}"
        for part in row["changed"]
    ]
    return "; ".join(parts) or "facts of loading"


def _is_bad(row: Row) -> bool:
    return _is_said(row["against"]) and float(row["against"]) >= AGAINST


def _verdict_of_response(row: Row) -> str:
    if not _is_said(row["against"]):
        return "not scored"
    return f"like {row['most_likely']}" if _is_bad(row) else "as accepted"


def _sum_of_responses(rows: Sequence[Row]) -> list[str]:
    at = _time("at")
    bad, good = [row for row in rows if _is_bad(row)], [row for row in rows if not _is_bad(row)]
    lines = [
        f"{len(bad)} of {len(rows)} are clearly not from the accepted adapter (against: {AGAINST:.1f} nats or more)"
    ]
    if bad:
        times = sorted(map(at, bad))
        before = max((at(row) for row in good if at(row) < times[0]), default="")
        lines.append(
            f"first of them {times[0]}, last {times[-1]}" + (f"; the last good one before {before}" if before else "")
        )
    reasons = sorted({str(row["detail"]) for row in rows if row["detail"] and row["detail"] != SAYS_NOTHING})
    return [*lines, *reasons]


def _sum_of_rounds(rows: Sequence[Row]) -> list[str]:
    """By whom canaries were answered: rounds of the files say nothing of what an engine serves."""
    by = sorted({str(row["answered_by"]) for row in rows if row["answered_by"]})
    words = f"canaries were answered by: {', '.join(by)}" if by else "it is not stored who answered the canaries"
    return [f"{words}; no engine was asked, so what is served may be otherwise" if by == ["files"] else words]


def _sum_of_flips(rows: Sequence[Row]) -> list[str]:
    at = _time("at")
    times = sorted(map(at, rows))
    return [f"compared between {times[0]} and {times[-1]}: gapwatch query incidents says which incident that was"]


def _sum_of_degraded(rows: Sequence[Row]) -> list[str]:
    """What to do, once for each thing to do, and not for what an incident of its base speaks for."""
    own = [row for row in rows if not row["covered_by"] and row["action"]]
    return list(dict.fromkeys(f"do first ({row['subject']}): {row['action']}" for row in own))


def _status(row: Row) -> str:
    return (
        f"{row['status']}: part of the incident base/{row['covered_by']}" if row["covered_by"] else str(row["status"])
    )


def _cause_or_reason(row: Row) -> str:
    """Of what cannot be judged there is no cause, and the reason says why."""
    is_known = row["cause"] not in ("", "none")
    return str(row["cause"]) if is_known else str(row.get("reason") or "").replace("_", " ")


NARROW = {
    "responses": Narrow(
        {
            "at": _time("at"),
            "adapter": _of("adapter"),
            "pod": _of("pod"),
            "against": _number("against", 1),
            "answer": _verdict_of_response,
            "tokens": _of("tokens"),
            "request": lambda row: str(row["request_id"])[:DIGEST],
        },
        _sum_of_responses,
    ),
    "rounds": Narrow(
        {
            "at": _time("at"),
            "adapter": _of("adapter"),
            "round": _of("round"),
            "retention": _number("retention", 3),
            "base shift": _number("base_shift", 3),
            "draws": _of("draws"),
            "not measured": _of("blocked"),
            "answered by": _of("answered_by"),
            "facts": _of("facts"),
        },
        _sum_of_rounds,
    ),
    "identity": Narrow(
        {
            "at": _time("at"),
            "adapter": _of("adapter"),
            "pod": _of("pod"),
            "changed": _changed,
            "base now": lambda row: _beside_accepted(row["live_base"], row["accepted_base"]),
            "adapter now": lambda row: _beside_accepted(row["live_adapter"], row["accepted_adapter"]),
        }
    ),
    "flipped": Narrow(
        {
            "at": _time("at"),
            "adapter": _of("adapter"),
            "canary": _of("canary"),
            "task": _of("task"),
            "accepted": _text("golden_text"),
            "now": _text("present_text"),
        },
        _sum_of_flips,
    ),
    "since": Narrow(
        {
            "subject": lambda row: f"{row['subject_kind']}/{row['subject']}",
            "status": _of("status_now"),
            "cause": _of("cause"),
            "onset after": _time("onset_after"),
            "by": _time("onset_by"),
            "alarm": _time("alarm_at"),
            "base": lambda row: _then_and_now(row["healthy_base"], row["live_base"]),
            # A base has several adapters, each with a row of its own.
            "adapter": lambda row: (
                ""
                if row["subject_kind"] == SubjectKind.BASE.value
                else _then_and_now(row["healthy_adapter"], row["live_adapter"])
            ),
        }
    ),
    "degraded": Narrow(
        {
            "subject": lambda row: f"{row['subject_kind']}/{row['subject']}",
            "status": _status,
            "cause": _cause_or_reason,
            "bad responses from": lambda row: ", ".join(map(str, row.get("bad_pods") or ())),
            "retention": _number("retention", 2),
            "evidence": _number("log_e", 1),
            "a page takes": _number("log_threshold", 1),
            "last judged": _time("last_judged"),
            "by": _of("judged_by"),
        },
        _sum_of_degraded,
    ),
}
# The most columns of a table of one line a row.
WIDEST = max(len(narrow.columns) for narrow in NARROW.values())
# Columns that stay also where all of their cells are empty.
ALWAYS = ("at", "subject", "status")
