"""Since when, how often before, and whom did it touch?"""

from __future__ import annotations

from dashboards.board import STATUSES, Dashboard, Panel, Shape
from dashboards.boards.now import COMMAND
from dashboards.fragments import (
    CAUSE_OF_INCIDENT,
    CLUSTERS,
    IN_CLUSTERS,
    OF_ADAPTERS_BY_NAME,
    OF_SUBJECTS,
    RUNBOOK,
    SUBJECTS,
    WHY,
    cause,
    largest_and_rest,
    requests,
    requests_of_hours,
)

MOST_ROWS, MOST_INCIDENTS = 40, 100
# A row holds until the next one of its pod and subject, and at most an hour: verdicts are stored on change and once an
# hour. So at each moment at which a pod says something, what the others said last still holds.
STATES = f"""\
WITH said AS (
    SELECT
        cluster, subject_kind, subject, pod, $__timeInterval(greatest(at, toDateTime64($__fromTime, 3))) AS time,
        argMax(indexOf({list(STATUSES)}, status), at) - 1 AS place
    FROM verdicts
    WHERE at > $__fromTime - INTERVAL 1 HOUR AND at <= $__toTime AND {IN_CLUSTERS} AND {OF_SUBJECTS}
    GROUP BY cluster, subject_kind, subject, pod, time
),
worst AS (
    SELECT cluster, subject_kind, subject FROM said GROUP BY cluster, subject_kind, subject
    ORDER BY max(place) DESC, max(time) DESC, subject LIMIT {MOST_ROWS}
),
moments AS (
    SELECT t.cluster AS cluster, t.subject_kind AS subject_kind, t.subject AS subject, t.time AS time, p.pod AS pod
    FROM (
        SELECT DISTINCT cluster, subject_kind, subject, time FROM said
        WHERE (cluster, subject_kind, subject) IN (SELECT * FROM worst)
    ) AS t
        INNER JOIN (SELECT DISTINCT cluster, subject_kind, subject, pod FROM said) AS p
        ON t.cluster = p.cluster AND t.subject_kind = p.subject_kind AND t.subject = p.subject
)
SELECT m.time AS time, toString(m.subject) AS series, max(s.place) AS state
FROM moments AS m ASOF INNER JOIN said AS s
    ON m.cluster = s.cluster AND m.subject_kind = s.subject_kind AND m.subject = s.subject AND m.pod = s.pod
    AND m.time >= s.time
WHERE s.time > m.time - INTERVAL 1 HOUR
GROUP BY time, series
ORDER BY time, series"""

ONSETS = f"""\
SELECT
    a.subject AS subject, {cause("a.status", "a.cause")} AS cause, a.at AS alarm_at,
    coalesce(a.onset_earliest, a.onset_after) AS `began after`,
    coalesce(a.onset_latest, a.onset_by, a.at) AS `began by`,
    dateDiff('second', `began by`, a.at) AS `until the page`,
    if(h.subject = '', NULL, h.at) AS `last healthy`, h.live_base AS `base then`, a.live_base AS `base at the alarm`,
    h.live_adapter AS `adapter then`, a.live_adapter AS `adapter at the alarm`, a.pod AS pod, a.cluster AS cluster
FROM (SELECT * FROM verdicts WHERE reason = 'alarm' AND $__timeFilter(at) AND {IN_CLUSTERS} AND {OF_SUBJECTS}) AS a
    ASOF LEFT JOIN (
        SELECT cluster, subject_kind, subject, at, live_base, live_adapter FROM verdicts
        WHERE status = 'healthy' AND at > $__fromTime - INTERVAL 7 DAY AND at <= $__toTime
    ) AS h ON a.cluster = h.cluster AND a.subject_kind = h.subject_kind AND a.subject = h.subject AND a.at > h.at
ORDER BY alarm_at DESC, subject"""

INCIDENTS = f"""\
SELECT
    subject, {CAUSE_OF_INCIDENT} AS cause, opened_at, ended_at,
    dateDiff('minute', opened_at, coalesce(ended_at, $__toTime)) AS minutes,
    severity, owner, {COMMAND} AS `all of it`, opened_by AS kind, ended_by,
    if(reopened = 1, 'reopened', '') AS reopened, notices,
    arrayStringConcat(arraySort(pods), ', ') AS pods, summary, cluster
FROM incidents(subject = '', cluster = '')
WHERE opened_at <= $__toTime AND (ended_at IS NULL OR ended_at >= $__fromTime) AND {IN_CLUSTERS} AND {OF_SUBJECTS}
ORDER BY ended_at IS NULL DESC, opened_at DESC"""

COUNTS = f"""\
SELECT
    countIf(opened_by != 'cannot_tell') AS incidents, countIf(reopened = 1) AS reopened,
    countIf(opened_by = 'cannot_tell') AS `could not be judged`
FROM incidents(subject = '', cluster = '')
WHERE opened_at <= $__toTime AND (ended_at IS NULL OR ended_at >= $__fromTime) AND {IN_CLUSTERS} AND {OF_SUBJECTS}"""

REQUESTS = largest_and_rest(
    f"""\
SELECT time, toString(adapter) AS series, sum(n) AS requests
FROM (
{requests("$__timeInterval(minute)", f"{IN_CLUSTERS} AND {OF_ADAPTERS_BY_NAME}")}
)
GROUP BY time, series""",
    "requests",
)

# From the onset, or from the begin of the window where that is later. Of a base: of the adapters that its alarm named.
# The list is a value, because a WITH table is computed at each place that names it.
IN_THESE_HOURS = """\
(toString(cluster), toString(adapter), hour) IN (
    SELECT i.1, i.2, arrayJoin(arrayMap(
        k -> toStartOfHour(i.6) + toIntervalHour(k), range(toUInt32(dateDiff('hour', i.6, greatest(i.6, i.7)) + 1))
    )) FROM (SELECT arrayJoin(listed) AS i)
)"""
TOUCHED = f"""\
WITH (
    SELECT groupArray(tuple(
        toString(i.cluster), arrayJoin(if(i.subject_kind = 'base', a.members, [toString(i.subject)])),
        toString(i.subject), toString(i.cause), i.opened_at, toStartOfMinute(greatest(
            toDateTime(coalesce(a.onset_after, a.onset_by, i.opened_at), 'UTC'), toDateTime($__fromTime, 'UTC')
        )), toDateTime(coalesce(i.ended_at, $__toTime), 'UTC')
    ))
    FROM (
        SELECT * FROM incidents(subject = '', cluster = '')
        WHERE opened_at <= $__toTime AND (ended_at IS NULL OR ended_at >= $__fromTime) AND opened_by != 'cannot_tell'
            AND {IN_CLUSTERS} AND {OF_SUBJECTS}
        ORDER BY opened_at DESC LIMIT {MOST_INCIDENTS}
    ) AS i ASOF LEFT JOIN (
        SELECT cluster, subject_kind, subject, at, members, onset_after, onset_by FROM verdicts
        WHERE reason = 'alarm' AND at <= $__toTime
    ) AS a ON i.cluster = a.cluster AND i.subject_kind = a.subject_kind AND i.subject = a.subject
        AND i.opened_at >= a.at
) AS listed,
counts AS (
{requests_of_hours(f"{IN_CLUSTERS} AND {IN_THESE_HOURS}")}
)
SELECT
    s.i.3 AS subject, s.adapter AS adapter, sum(arraySum(mapValues(mapFilter(
        (k, n) -> c.hour + toIntervalMinute(k) >= s.i.6 AND c.hour + toIntervalMinute(k) <= s.i.7, c.by_minute
    )))) AS requests,
    s.i.4 AS cause, s.i.5 AS opened_at
FROM (SELECT arrayJoin(listed) AS i, i.1 AS cluster, i.2 AS adapter) AS s
    LEFT JOIN counts AS c ON s.cluster = c.cluster AND s.adapter = c.adapter
GROUP BY subject, adapter, cause, opened_at
ORDER BY opened_at DESC, requests DESC"""

SINCE = Dashboard(
    uid="gapwatch-since",
    title="gapwatch: since",
    about="Since when something is degraded, whether it was before, and how many requests it touched.",
    since="now-7d",
    refresh="5m",
    filters=(CLUSTERS, SUBJECTS),
    panels=(
        Panel(
            "states",
            "Who was degraded when?",
            "The 40 that were worst; of several pods the worst. 'unmonitorable' is not 'healthy': nobody could tell.",
            STATES,
            Shape.STATES,
            width=19,
            height=9,
        ),
        Panel(
            "counts",
            "In this window",
            "reopened: within a day of the end of the one before. How many were false: `gapwatch query false_pages`",
            COUNTS,
            Shape.NUMBERS,
            width=5,
            height=9,
        ),
        Panel(
            "onsets",
            "When did it begin, and what was in place before?",
            "Between which times, with 95 % confidence where known, else between two rounds. The hashes 'then' are"
            " those to roll back to. `gapwatch query since`",
            ONSETS,
            units={"until the page": "s"},
            links={"subject": WHY, "cause": RUNBOOK},
        ),
        Panel(
            "incidents",
            "Which incidents were there, and what ended them?",
            "all of it: the command that tells it on one screen. `gapwatch query incidents`",
            INCIDENTS,
            units={"minutes": "m"},
            links={"subject": WHY, "cause": RUNBOOK},
        ),
        Panel(
            "touched",
            "How many requests were served while it was degraded?",
            "From the onset, within this window; the 100 latest incidents. Of all requests, not of a sample."
            " `gapwatch query requests_since`",
            TOUCHED,
            width=12,
            links={"subject": WHY, "cause": RUNBOOK},
        ),
        Panel(
            "requests",
            "How many requests does each adapter serve?",
            "A name that suddenly serves nothing, or serves another's requests, is a fault of the route.",
            REQUESTS,
            Shape.BARS,
            width=12,
        ),
    ),
)
