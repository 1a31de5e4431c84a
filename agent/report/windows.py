"""Which two stretches of time a report compares: the fault, and as much healthy time before it. Pure.

Times are seconds since the epoch. The rows are answers of dashboards/sql/incidents.sql and onsets.sql, their times as
``seconds_of`` reads them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from agent.store.verdict_runs import LONGEST_S

Row = Mapping[str, Any]

# An alarm and its page are of one round. The page is sent a little later; stored times may differ by a millisecond.
ALARM_BEFORE_PAGE_S, ALARM_AFTER_PAGE_S = 300.0, 1.0
# Of a fault that was paged a minute ago, a minute of healthy time would hold a single round.
LEAST_HEALTHY_S = 3600.0
# Times are stored in milliseconds.
JUST_BEFORE_S = 0.001
# As long as requests and embeddings are kept (deploy/clickhouse/001_verdicts.sql, 003_traffic.sql).
FURTHEST_S = 30 * 86_400.0


class Span(NamedTuple):
    """Both ends included."""

    begin: float
    end: float

    @property
    def length(self) -> float:
        return self.end - self.begin


@dataclass(frozen=True, slots=True)
class Windows:
    """healthy: in order, apart from each other and all before the incident; several where other incidents lie between

    gap_s: how long it is not known whether the fault was there already, and which is in neither window
    """

    healthy: tuple[Span, ...]
    incident: Span
    gap_s: float = 0.0


def windows_of(incident: Row, incidents: Iterable[Row], onsets: Sequence[Row], now: float) -> Windows:
    """Of one incident among all of the same subjects.

    The incident lasts from when its fault was surely there to the first good round after the last bad one, not to its
    end: the good rounds that an end waits for are in neither window. Healthy is as long before it, an hour at least,
    without the time of other incidents; less where the last 30 days have less.
    """
    before, begin, end = bounds(incident, onsets, now)
    others = [_whole(other, onsets, now) for other in incidents if other is not incident]
    healthy = healthy_before(before, max(end - begin, LEAST_HEALTHY_S), others)
    return Windows(healthy, Span(begin, end), begin - before)


def bounds(incident: Row, onsets: Sequence[Row], now: float) -> tuple[float, float, float]:
    """When it was last healthy, when the fault was surely there, and when it was last bad.

    By the alarms of the incident, the one that opened it for its begin; where it had none, by its notices.
    """
    opened, closed = seconds_of(incident["opened_at"]), _end(incident, now)
    alarms = _alarms_of(incident, onsets, opened, closed)
    if not alarms:
        return opened, opened, max(opened, closed)
    alarm_at = seconds_of(alarms[0]["alarm_at"])
    by = [seconds_of(alarms[0][name]) for name in ("onset_by", "onset_latest") if alarms[0][name] is not None]
    after = [seconds_of(alarms[0][name]) for name in ("onset_after", "onset_earliest") if alarms[0][name] is not None]
    begin = min(max(by, default=alarm_at), alarm_at)
    last_bad = max(alarms, key=lambda row: seconds_of(row["last_bad_at"]))
    # Where no good round was judged, rows of a verdict that stays as it is come once in LONGEST_S.
    good = seconds_of(last_bad["good_at"]) - JUST_BEFORE_S if last_bad["good_at"] is not None else math.inf
    end = min(good, closed, seconds_of(last_bad["last_bad_at"]) + LONGEST_S)
    return min([*after, begin]), begin, max(begin, end)


def _alarms_of(incident: Row, onsets: Sequence[Row], opened: float, closed: float) -> list[Row]:
    """From the last alarm before the page, which it is of, in order of time."""
    names = ("cluster", "subject_kind", "subject")
    times = {seconds_of(row["alarm_at"]): row for row in onsets if all(row[name] == incident[name] for name in names)}
    before = [at for at in times if opened - ALARM_BEFORE_PAGE_S <= at <= opened + ALARM_AFTER_PAGE_S]
    first = max(before, default=opened)
    return [times[at] for at in sorted(times) if first <= at <= closed]


def healthy_before(edge: float, length_s: float, others: Iterable[Span]) -> tuple[Span, ...]:
    """The latest ``length_s`` seconds before ``edge`` that lie in no other incident, in order."""
    spans: list[Span] = []
    furthest, wanted = edge - FURTHEST_S, length_s
    ends = sorted(others, key=lambda span: -span.end)
    for other in (*ends, Span(-math.inf, furthest)):
        begin = max(other.end, furthest, edge - wanted)
        if begin < edge:
            spans.append(Span(begin, edge))
            wanted -= edge - begin
        edge = min(edge, other.begin)
    return tuple(reversed(spans))


def _whole(incident: Row, onsets: Sequence[Row], now: float) -> Span:
    """From its onset to its end, the rounds that it waited for included."""
    before, _, _ = bounds(incident, onsets, now)
    return Span(before, _end(incident, now))


def _end(incident: Row, now: float) -> float:
    return now if incident["ended_at"] is None else seconds_of(incident["ended_at"])


def within(spans: Sequence[Span], rows: Iterable[Row]) -> list[Row]:
    """Rows whose ``at`` lies in one of them."""
    return [row for row in rows if any(span.begin <= seconds_of(row["at"]) <= span.end for span in spans)]


def seconds_of(at: Any) -> float:
    """A time as the store gives it, or as JSON from a running agent has it."""
    moment = at if isinstance(at, datetime) else datetime.fromisoformat(str(at))
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def utc(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"


def lasting(length_s: float) -> str:
    """``40 s``, ``12 min``, ``3.5 h``, ``4.0 d``."""
    if length_s < 120:
        return f"{max(1, round(length_s))} s"
    minutes = length_s / 60
    return (
        f"{minutes:.0f} min"
        if minutes < 120
        else f"{minutes / 60:.1f} h"
        if minutes < 2880
        else f"{minutes / 1440:.1f} d"
    )
