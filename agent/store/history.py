"""What the status page asks the store: the last day of a cluster, and what other pods say. A few rows each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent.records import Flip, NoticeKind
from agent.status_page.board import (
    BUCKET_S,
    MOST_FLIPS,
    MOST_NOTICES,
    PARTS,
    Accepted,
    Moved,
    Points,
    SentNotice,
    moved_parts,
)
from detectors.records import (
    Cause,
    Evidence,
    Identity,
    Interval,
    Onset,
    Reason,
    Status,
    Subject,
    SubjectKind,
    Verdict,
)

RETENTION = f"""
SELECT
    adapter, toUnixTimestamp(toStartOfInterval(at, toIntervalSecond({BUCKET_S:.0f}))) AS began, avg(retention) AS mean
FROM rounds
WHERE cluster = {{cluster:String}} AND at > now() - INTERVAL 1 DAY AND blocked = '' AND isFinite(retention)
GROUP BY adapter, began ORDER BY adapter, began
"""
NOTICES = f"""
SELECT toUnixTimestamp64Milli(at) / 1000 AS at, kind, reason, dedup_key, subject_kind, subject, cause, summary
FROM notices WHERE cluster = {{cluster:String}} AND at > now() - INTERVAL 7 DAY
ORDER BY at DESC LIMIT {MOST_NOTICES}
"""
FLIPS = f"""
SELECT adapter, base, canary, round, toUnixTimestamp64Milli(at) / 1000 AS at, prompt, golden_text, present_text,
    retention, golden_passes, present_passes
FROM flips WHERE cluster = {{cluster:String}} AND at > now() - INTERVAL 1 DAY ORDER BY at DESC LIMIT {MOST_FLIPS}
"""
HASHES = ", ".join(f"live_{part}" for part in PARTS)
# One row for each stretch in which the same files were in place.
IDENTITIES = f"""
SELECT adapter, pod, {HASHES}, toUnixTimestamp64Milli(min(at)) / 1000 AS since
FROM rounds WHERE cluster = {{cluster:String}} AND at > now() - INTERVAL 1 DAY AND live_base != ''
GROUP BY adapter, pod, {HASHES} ORDER BY adapter, pod, since
"""
LATEST = """
SELECT subject_kind, subject, argMax(tuple(
    base, round, toUnixTimestamp64Milli(at) / 1000, status, reason, cause, retention, retention_low, retention_high,
    retention_n, log_e, log_threshold, covered_by, members, explanation, action,
    toUnixTimestamp64Milli(onset_after) / 1000, toUnixTimestamp64Milli(onset_by) / 1000,
    golden_base, live_base, golden_adapter, live_adapter, bad_pods, scored_pods
), at) AS latest
FROM verdicts WHERE cluster = {cluster:String} AND at > now() - INTERVAL 2 DAY GROUP BY subject_kind, subject
"""
ACCEPTED = """
SELECT
    adapter, argMax(tuple(toUnixTimestamp64Milli(accepted_at) / 1000, why, smallest_loss, draws), accepted_at) AS latest
FROM goldens WHERE cluster = {cluster:String} GROUP BY adapter
"""
PODS = """
SELECT pod, toUnixTimestamp64Milli(max(at)) / 1000 AS beat, argMax(overdue, at) AS overdue
FROM heartbeats WHERE cluster = {cluster:String} AND at > now() - INTERVAL 1 DAY GROUP BY pod ORDER BY pod
"""


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of the cluster within the last day. beat: its latest sign of life"""

    name: str
    beat: float
    overdue: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class History:
    """What the store knew at one moment. verdicts: the latest of whichever pod"""

    at: float = 0.0
    retention: Mapping[str, Points] = field(default_factory=dict)
    sent: tuple[SentNotice, ...] = ()
    flips: tuple[Flip, ...] = ()
    moved: tuple[Moved, ...] = ()
    verdicts: Mapping[Subject, Verdict] = field(default_factory=dict)
    pods: tuple[Pod, ...] = ()
    accepted: Mapping[str, Accepted] = field(default_factory=dict)


def history(client: Any, cluster: str, now: float) -> History:
    """Raises whatever the driver does where the store is away."""

    def rows(question: str) -> Sequence[Sequence[Any]]:
        answer: Sequence[Sequence[Any]] = client.query(question, parameters={"cluster": cluster}).result_rows
        return answer

    retention: dict[str, list[tuple[float, float]]] = {}
    for adapter, began, mean in rows(RETENTION):
        retention.setdefault(str(adapter), []).append((float(began), float(mean)))
    return History(
        now,
        {adapter: tuple(points) for adapter, points in retention.items()},
        tuple(_sent(row) for row in reversed(rows(NOTICES))),
        tuple(map(_flip, reversed(rows(FLIPS)))),
        _moved(rows(IDENTITIES)),
        dict(map(_verdict, rows(LATEST))),
        tuple(Pod(str(pod), float(beat), tuple(overdue)) for pod, beat, overdue in rows(PODS)),
        {str(adapter): _accepted(latest) for adapter, latest in rows(ACCEPTED)},
    )


def _sent(row: Sequence[Any]) -> SentNotice:
    at, kind, reason, key, subject_kind, subject, cause, summary = row
    about = SubjectKind(subject_kind), str(subject)
    return SentNotice(float(at), NoticeKind(kind), str(reason), str(key), about, str(cause), str(summary))


def _accepted(latest: Sequence[Any]) -> Accepted:
    at, why, loss, draws = latest
    return Accepted(float(at), str(why), float(loss) if math.isfinite(loss) else None, int(draws))


def _flip(row: Sequence[Any]) -> Flip:
    adapter, base, canary, number, at, prompt, golden, present, retention, golden_passes, present_passes = row
    return Flip(
        adapter, base, canary, number, float(at), prompt, golden, present, retention, golden_passes, present_passes
    )


def _moved(rows: Sequence[Sequence[Any]]) -> tuple[Moved, ...]:
    """Between one stretch and the next of the same adapter and pod; several pods that see it say it once."""
    before: dict[tuple[str, str], Identity] = {}
    moved: dict[tuple[str, tuple[str, ...]], Moved] = {}
    for adapter, pod, *hashes, since in rows:
        base, own, tokenizer, template = map(str, hashes)
        identity = Identity(live_base=base, live_adapter=own, live_tokenizer=tokenizer, live_template=template)
        parts = moved_parts(before.get((adapter, pod), identity), identity)
        before[adapter, pod] = identity
        if parts:
            moved.setdefault((adapter, parts), Moved(float(since), (SubjectKind.ADAPTER, str(adapter)), parts))
    return tuple(sorted(moved.values(), key=lambda change: change.at))


def _verdict(row: Sequence[Any]) -> tuple[Subject, Verdict]:
    kind, name, latest = SubjectKind(row[0]), str(row[1]), row[2]
    base, number, at, status, reason, cause, mean, low, high, n, log_e, threshold, covered, members, *words = latest
    explanation, action, after, by, golden_base, live_base, golden_adapter, live_adapter, bad_pods, scored_pods = words
    return (kind, name), Verdict(
        kind,
        name,
        str(base),
        int(number),
        float(at),
        Status(status),
        Reason(reason),
        Cause(cause),
        retention=Interval(mean, low, high, n) if math.isfinite(mean) else None,
        evidence=(Evidence(kind, name, "", "", int(number), float(log_e), 0, float(at)),),
        log_threshold=float(threshold),
        onset=Onset(None if after is None else float(after), float(by)) if by is not None else None,
        covered_by=str(covered),
        members=tuple(members),
        explanation=str(explanation),
        action=str(action),
        identity=Identity(golden_base, live_base, golden_adapter, live_adapter),
        bad_pods=tuple(bad_pods),
        pods=tuple(scored_pods),
    )
