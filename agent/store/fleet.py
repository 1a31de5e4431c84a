"""What the store holds of the other pods of a cluster, for the notices of this one (agent/alerting/fleet.py)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import structlog

from agent.alerting.fleet import LEAST_FRESH_S, Fleet, JudgedBy, SentIncident
from agent.alerting.notice import blindness_key, dedup_key, state_key
from agent.records import NoticeReason
from agent.store.client import Client
from detectors.records import Cause, FilesReplay, Identity, ShareOf, Status, Subject, SubjectKind

Judging = tuple[str, str, str]
"""(pod, kind, subject)"""

log = structlog.get_logger(__name__)


# The server gives up after so long; the loop waits less (reader.py).
LONGEST_S = 3
_SETTINGS = {"max_execution_time": LONGEST_S}

_LIVE = """SELECT pod, argMax(rounds, at) > 0 FROM heartbeats
WHERE cluster = {cluster:String} AND pod != {pod:String} AND at > now() - INTERVAL 3 MINUTE GROUP BY pod"""

# A resolve and a trigger of one moment: the trigger came after it. A notice is delivered where the process
# that sent it had none left to send later on: a pod that was recreated under its name has lost them with its disk.
# Of a pod whose last heartbeat is over a day old nobody knows. One that sends nothing to anybody, by its -1, has
# delivered nothing, and reports for no other.
_INCIDENTS = """WITH sent AS (
    SELECT
        dedup_key, kind, reason, at, pod, cause, share_of,
        maxIf(at, kind = 'resolve') OVER (PARTITION BY dedup_key) AS ended_at,
        kind = 'trigger' AND at >= ended_at AS is_open
    FROM notices WHERE cluster = {cluster:String} AND kind != 'change' AND dedup_key IN {keys:Array(String)}
),
processes AS (
    SELECT pod, started_at, maxIf(at, unsent = 0) AS empty_at, max(at) AS beat, argMax(unsent, at) AS has_unsent
    FROM heartbeats
    WHERE cluster = {cluster:String} AND pod IN (SELECT pod FROM sent) AND at > now() - INTERVAL 1 DAY
    GROUP BY pod, started_at
),
own AS (
    SELECT argMax(unsent, at) >= 0 AS sends FROM heartbeats
    WHERE cluster = {cluster:String} AND pod = {pod:String} AND at > now() - INTERVAL 1 HOUR
),
beats AS (
    SELECT pod, groupArray((started_at, empty_at)) AS emptied, argMax(processes.has_unsent, beat) AS has_unsent
    FROM processes GROUP BY pod
)
SELECT
    dedup_key, reason = {cannot_tell:String} AS of_blindness,
    toUnixTimestamp64Milli(maxIf(at, is_open)), toUnixTimestamp64Milli(any(ended_at)),
    argMaxIf(tuple(pod, cause), at, is_open) AS latest, countIf(is_open AND reason = {sharper:String}) > 0,
    countIf(is_open AND reason = {not_judged:String}) > 0, argMinIf(share_of, at, is_open) = {responses:String},
    countIf(is_open AND is_delivered) > 0,
    countIf(is_open AND has_unsent != 0) > 0 AND (SELECT sends FROM own),
    countIf(kind = 'trigger' AND pod = {pod:String} AND has_unsent > 0 AND NOT is_delivered) > 0
FROM (
    SELECT *, arrayExists(process -> process.1 <= at AND at <= process.2, emptied) AS is_delivered
    FROM sent LEFT JOIN beats USING pod
)
GROUP BY dedup_key, of_blindness"""

_CHANGES = """SELECT dedup_key, reason, change, toUnixTimestamp64Milli(max(at)) FROM notices
WHERE cluster = {cluster:String} AND kind = 'change' AND change != '' AND dedup_key IN {keys:Array(String)}
GROUP BY dedup_key, reason, change"""

_KINDS = [kind.value for kind in SubjectKind]
# A round without requests, or with embeddings alone, says neither that a subject can be judged nor that it cannot.
_JUDGED = """SELECT
    pod, subject_kind, subject, base,
    argMaxIf(if(covered_by = '', status, 'covered'), at, status != 'unmonitorable') AS measured,
    argMaxIf(status, at, reason NOT IN ('no_traffic', 'output_drift')) = 'unmonitorable' AS is_blind,
    argMaxIf(tolerated_change != '', at, status = 'healthy') AS has_changed
FROM verdicts
WHERE cluster = {cluster:String} AND subject_kind IN {kinds:Array(String)} AND subject IN {subjects:Array(String)}
    AND at > now() - INTERVAL 2 HOUR AND pod IN {pods:Array(String)}
GROUP BY pod, subject_kind, subject, base"""

# Of pods that have measured a subject for the last time longer ago: a week of rows, so only these are looked up.
_MEASURED_BEFORE = """SELECT pod, subject_kind, subject, argMax(if(covered_by = '', status, 'covered'), at)
FROM verdicts
WHERE cluster = {cluster:String} AND subject_kind IN {kinds:Array(String)} AND subject IN {subjects:Array(String)}
    AND at > now() - INTERVAL 7 DAY AND pod IN {pods:Array(String)} AND status != 'unmonitorable'
GROUP BY pod, subject_kind, subject"""


_FILES = """SELECT adapter, argMax(
    tuple(
        base, golden, toUnixTimestamp64Milli(replayed.at), as_accepted, share_beyond, live_base, live_adapter,
        hash_scheme, pod
    ),
    replayed.at
) FROM files_replays AS replayed
WHERE cluster = {cluster:String} AND pod != {pod:String} AND adapter IN {adapters:Array(String)}
    AND replayed.at > now() - toIntervalSecond({fresh_s:UInt32}) GROUP BY adapter"""

# Of pods of an earlier version nothing is known, and they judge whatever they have a verdict on.
_WATCHED = """SELECT pod, arrayIntersect(argMax(watching.subjects, at), {keys:Array(String)}) FROM watching
WHERE cluster = {cluster:String} AND pod IN {pods:Array(String)} GROUP BY pod"""

_WATCHERS = """SELECT subject, arraySort(groupArray(pod)) FROM (
    SELECT pod, arrayJoin(arrayIntersect(argMax(watching.subjects, at), {keys:Array(String)})) AS subject FROM watching
    WHERE cluster = {cluster:String} AND pod IN (
        SELECT pod FROM heartbeats WHERE cluster = {cluster:String} AND at > now() - INTERVAL 3 MINUTE
    )
    GROUP BY pod
)
GROUP BY subject"""


def watchers(client: Client, cluster: str, subjects: Collection[Subject]) -> dict[str, list[str]]:
    """State key of each of these that a live pod judges -> the pods that say so, sorted."""
    keys = [state_key(*subject) for subject in subjects]
    return dict(_rows(client, _WATCHERS, cluster=cluster, keys=keys))


def fleet(
    client: Client,
    cluster: str,
    pod: str,
    subjects: Collection[Subject],
    spacing_s: float,
    files_fresh_s: float = LEAST_FRESH_S,
) -> Fleet:
    """What this pod has to know of the others to report on these subjects.

    A pod is live where its heartbeat is at most three minutes old, and judges a subject where it says so, or says
    nothing of what it judges, and its last verdict is at most two hours old: one whose verdicts are written when they
    change has one an hour. Losing sight of a subject does
    not end its incident: of each pod the latest verdict up to a week old counts that is not unmonitorable. A member
    that is covered by its base's incident has none of its own. files_fresh_s: how old a replay of files may be.
    """
    live = _rows(client, _LIVE, cluster=cluster, pod=pod)
    pods = {name: bool(busy) for name, busy in live}
    return Fleet(
        pod=pod,
        live=pods,
        judged=_judged(client, cluster, subjects, list(pods)) if pods else {},
        incidents=_incidents(client, cluster, pod, subjects),
        changes=_changes(client, cluster, subjects),
        files=_files(client, cluster, pod, subjects, files_fresh_s),
        spacing_s=spacing_s,
    )


def _incidents(
    client: Client, cluster: str, pod: str, subjects: Collection[Subject]
) -> dict[tuple[str, bool], SentIncident]:
    keys = [key(cluster, *subject) for subject in subjects for key in (dedup_key, blindness_key)]
    reasons = {
        "cannot_tell": NoticeReason.CANNOT_TELL.value,
        "sharper": NoticeReason.CAUSE_SHARPER.value,
        "not_judged": NoticeReason.NO_LONGER_JUDGED.value,
        "responses": ShareOf.RESPONSES.value,
    }
    rows = _rows(client, _INCIDENTS, cluster=cluster, pod=pod, keys=keys, **reasons)
    return {
        (key, bool(of_blindness)): SentIncident(
            opened / 1000, ended / 1000, by, cause or Cause.NONE.value, *map(bool, flags)
        )
        for key, of_blindness, opened, ended, (by, cause), *flags in rows
    }


def _changes(client: Client, cluster: str, subjects: Collection[Subject]) -> dict[tuple[str, str, str], float]:
    keys = [dedup_key(cluster, *subject) for subject in subjects]
    rows = _rows(client, _CHANGES, cluster=cluster, keys=keys)
    return {(key, reason, change): at / 1000 for key, reason, change, at in rows}


def _files(
    client: Client, cluster: str, pod: str, subjects: Collection[Subject], fresh_s: float
) -> dict[str, FilesReplay]:
    """Asked last, and none where that fails: a page goes without, and an incident ends as it would have."""
    adapters = [name for kind, name in subjects if kind is SubjectKind.ADAPTER]
    given = {"cluster": cluster, "pod": pod, "adapters": adapters, "fresh_s": round(fresh_s)}
    try:
        rows = _rows(client, _FILES, **given) if adapters else []
    except Exception as error:  # the driver's errors and urllib3's share no root
        log.info("files_of_other_pods_unknown", why=str(error).split("\n")[0][:300])
        return {}
    return {adapter: _replay(adapter, *columns) for adapter, columns in rows}


def _replay(
    adapter: str,
    base: str,
    golden: str,
    at: int,
    good: bool,
    beyond: float,
    live_base: str,
    live_adapter: str,
    scheme: int,
    pod: str,
) -> FilesReplay:
    identity = Identity(live_base=live_base, live_adapter=live_adapter, scheme=scheme)
    return FilesReplay(adapter, base, golden, at / 1000, bool(good), beyond, identity, pod)


def _judged(
    client: Client, cluster: str, subjects: Collection[Subject], pods: list[str]
) -> dict[str, dict[str, JudgedBy]]:
    rows = _rows(
        client, _JUDGED, cluster=cluster, kinds=_KINDS, subjects=sorted({name for _, name in subjects}), pods=pods
    )
    before = _measured_before(client, cluster, [row[:3] for row in rows if not row[4]])
    members = [(pod, base, is_blind) for pod, kind, _, base, _, is_blind, _ in rows if kind == SubjectKind.ADAPTER]
    watched = _watched(client, cluster, subjects, pods)
    judged: dict[str, dict[str, JudgedBy]] = {}
    for pod, kind, subject, base, measured, is_blind, has_changed in rows:
        own = [blind for name, of_base, blind in members if (name, of_base) == (pod, base)]
        # A base is unmonitorable, too, where all but one of its members are measured.
        blind = bool(is_blind) and (kind != SubjectKind.BASE or all(own))
        status = measured or before.get((pod, kind, subject), "")
        how = JudgedBy(status == Status.DEGRADED, blind, bool(has_changed))
        key = state_key(SubjectKind(kind), subject)
        if key in watched.get(pod, (key,)):
            judged.setdefault(key, {})[pod] = how
    return judged


def _watched(client: Client, cluster: str, subjects: Collection[Subject], pods: list[str]) -> dict[str, list[str]]:
    """Pod -> which of these it judges, as state keys; without pods that do not say so."""
    keys = [state_key(*subject) for subject in subjects]
    return dict(_rows(client, _WATCHED, cluster=cluster, keys=keys, pods=pods))


def _measured_before(client: Client, cluster: str, blind: list[Judging]) -> dict[Judging, str]:
    """How they judged when they last measured, of those that did not for two hours."""
    if not blind:
        return {}
    pods, subjects = (sorted({row[column] for row in blind}) for column in (0, 2))
    rows = _rows(client, _MEASURED_BEFORE, cluster=cluster, kinds=_KINDS, subjects=subjects, pods=pods)
    return {(pod, kind, subject): status for pod, kind, subject, status in rows}


def _rows(client: Client, sql: str, **given: Any) -> list[Any]:
    return list(client.query(sql, parameters=given, settings=_SETTINGS).result_rows)
