"""What is wrong now, and what does green mean? The dashboard to open first."""

from __future__ import annotations

from dashboards.board import Dashboard, Panel, Shape
from dashboards.fragments import (
    CAUSE_OF_INCIDENT,
    CLUSTERS,
    IN_CLUSTERS,
    OF_ADAPTERS,
    OF_SUBJECTS,
    RUNBOOK,
    SINCE,
    SUBJECTS,
    WHY,
    cause,
    foremost,
    retention,
)

OPEN = f"""\
opened_at <= $__toTime AND (ended_at IS NULL OR ended_at > $__toTime) AND {IN_CLUSTERS} AND {OF_SUBJECTS}"""

COUNTS = f"""\
SELECT countIf(opened_by != 'cannot_tell') AS degraded, countIf(opened_by = 'cannot_tell') AS `cannot be judged`
FROM incidents(subject = '', cluster = '')
WHERE {OPEN}"""

# The question ``degraded`` as of the end of the window: see dashboards/sql/degraded.sql.
NOT_HEALTHY = f"""\
WITH rows_by_pod AS (
    SELECT
        cluster, subject_kind, subject, base, pod, max(at) AS last_row,
        argMax(tuple(
            status, reason, cause, retention, log_e, log_threshold, covered_by, action, answered_by,
            bad_pods
        ), at) AS latest,
        indexOf(['healthy', 'unmonitorable', 'suspect', 'degraded'], latest.1) AS badness
    FROM verdicts
    WHERE at > $__toTime - INTERVAL 25 HOUR AND at <= $__toTime AND {IN_CLUSTERS} AND {OF_SUBJECTS}
    GROUP BY cluster, subject_kind, subject, base, pod
),
beats AS (
    SELECT cluster, pod, max(at) AS beat FROM heartbeats
    WHERE at > $__toTime - INTERVAL 25 HOUR AND at <= $__toTime GROUP BY cluster, pod
),
watched AS (SELECT cluster, pod, argMax(w.subjects, w.at) AS subjects FROM watching AS w GROUP BY cluster, pod),
by_pod AS (
    SELECT
        v.cluster AS cluster, v.subject_kind AS subject_kind, v.subject AS subject, v.base AS base, v.pod AS pod,
        if(w.pod = '' OR has(w.subjects, concat(v.subject_kind, '/', v.subject)), b.beat, v.last_row) AS beat,
        greatest(v.last_row, least(beat, v.last_row + INTERVAL 1 HOUR)) AS judged, v.latest AS latest,
        v.badness AS badness, beat > $__toTime - INTERVAL 3 MINUTE AS is_alive
    FROM rows_by_pod AS v LEFT JOIN beats AS b ON v.cluster = b.cluster AND v.pod = b.pod
        LEFT JOIN watched AS w ON v.cluster = w.cluster AND v.pod = w.pod
    WHERE judged > $__toTime - INTERVAL 24 HOUR
),
pods AS (
    SELECT *, judged = max(judged) OVER (PARTITION BY cluster, subject_kind, subject) OR is_alive AS speaks FROM by_pod
),
subjects AS (
    SELECT
        cluster, subject_kind, subject, base, max(judged) AS last_judged,
        argMax(latest, tuple(badness, judged)) AS worst, argMax(pod, tuple(badness, judged)) AS judged_by
    FROM pods WHERE speaks
    GROUP BY cluster, subject_kind, subject, base
)
SELECT
    worst.1 AS status, subject, subject_kind AS kind, base, {cause("worst.1", "worst.3")} AS cause,
    if(isFinite(worst.4), worst.4, NULL) AS retention,
    if(worst.6 > 0, worst.5 / worst.6, NULL) AS evidence, worst.7 AS covered_by, worst.8 AS action, worst.2 AS reason,
    last_judged, judged_by, worst.9 AS answered_by, arrayStringConcat(worst.10, ', ') AS bad_pods, cluster
FROM subjects
WHERE status != 'healthy'
ORDER BY status = 'degraded' DESC, kind = 'base' DESC, subject"""

# In single quotes for a shell, where a name may hold anything.
COMMAND = """concat('gapwatch explain ''', replaceAll(dedup_key, '''', '''"''"'''), '''')"""
INCIDENTS = f"""\
SELECT
    subject, {CAUSE_OF_INCIDENT} AS cause, opened_at, dateDiff('minute', opened_at, $__toTime) AS minutes,
    severity, owner, {COMMAND} AS `all of it`, opened_by AS kind, base,
    if(reopened = 1, 'reopened', '') AS reopened, summary, cluster
FROM incidents(subject = '', cluster = '')
WHERE {OPEN}
ORDER BY opened_at DESC"""

# Beside every green verdict the smallest loss that it rules out: see dashboards/sql/watched.sql.
WATCHED = f"""\
WITH records AS (
    SELECT
        g.cluster AS cluster, g.adapter AS adapter,
        argMax(tuple(g.smallest_loss, g.draws, g.tolerance), g.accepted_at) AS latest
    FROM goldens AS g FINAL WHERE g.accepted_at <= $__toTime GROUP BY cluster, adapter
),
measured AS (
    SELECT
        cluster, base, adapter, maxIf(at, blocked = '') AS last_measured, argMax(blocked, at) AS blocked_now,
        argMaxIf(r.retention, r.at, isFinite(r.retention)) AS kept, avgIf(draws, blocked = '') AS draws_a_round
    FROM rounds AS r
    WHERE at > $__toTime - INTERVAL 24 HOUR AND at <= $__toTime AND {IN_CLUSTERS} AND {OF_ADAPTERS}
    GROUP BY cluster, base, adapter
),
paces AS (
    SELECT cluster, adapter, max(pace) AS rounds_an_hour FROM (
        SELECT cluster, adapter, pod, (count() - 1) * 3600 / greatest(1, dateDiff('second', min(at), max(at))) AS pace
        FROM rounds WHERE blocked = '' AND at > $__toTime - INTERVAL 24 HOUR AND at <= $__toTime
        GROUP BY cluster, adapter, pod
    ) GROUP BY cluster, adapter
),
statuses AS (
    SELECT cluster, subject, argMax(status, at) AS latest FROM verdicts
    WHERE subject_kind = 'adapter' AND at > $__toTime - INTERVAL 25 HOUR AND at <= $__toTime GROUP BY cluster, subject
)
SELECT
    s.latest AS status, m.adapter AS subject, m.base AS base, if(isFinite(m.kept), m.kept, NULL) AS retention,
    if(isFinite(r.latest.1) AND r.adapter != '', r.latest.1, NULL) AS `smallest loss that pages`,
    if(
        isFinite(r.latest.1) AND r.adapter != '' AND p.rounds_an_hour > 0 AND m.draws_a_round > 0,
        ceil(r.latest.2 / m.draws_a_round) * 3600 / p.rounds_an_hour, NULL
    ) AS `after at most`,
    m.last_measured AS last_measured, m.blocked_now AS blocked, m.cluster AS cluster
FROM measured AS m
    LEFT JOIN records AS r ON m.cluster = r.cluster AND m.adapter = r.adapter
    LEFT JOIN paces AS p ON m.cluster = p.cluster AND m.adapter = p.adapter
    LEFT JOIN statuses AS s ON m.cluster = s.cluster AND m.adapter = s.subject
ORDER BY s.latest = 'healthy', subject"""

EVIDENCE = foremost(
    f"""\
SELECT $__timeInterval(e.at) AS time, toString(e.subject) AS series, max(e.log_e / t.log_threshold) AS evidence
FROM (SELECT * FROM evidence WHERE $__timeFilter(at) AND pages AND {IN_CLUSTERS} AND {OF_SUBJECTS}) AS e INNER JOIN (
    SELECT cluster, subject_kind, subject, argMax(v.log_threshold, v.at) AS log_threshold
    FROM verdicts AS v
    WHERE at > $__fromTime - INTERVAL 2 HOUR AND at <= $__toTime AND isFinite(v.log_threshold) AND v.log_threshold > 0
    GROUP BY cluster, subject_kind, subject
) AS t ON e.cluster = t.cluster AND e.subject_kind = t.subject_kind AND e.subject = t.subject
GROUP BY time, series""",
    "evidence",
    "max(evidence) DESC",
)

NOW = Dashboard(
    uid="gapwatch-now",
    title="gapwatch: now",
    about="What is wrong at the end of the window, and what a green verdict means.",
    since="now-24h",
    refresh="1m",
    filters=(CLUSTERS, SUBJECTS),
    panels=(
        Panel(
            "open",
            "Open incidents",
            "Of adapters and bases that are degraded, and of those that nobody can judge. `gapwatch query incidents`",
            COUNTS,
            Shape.NUMBERS,
            width=5,
            height=8,
            threshold=1,
        ),
        Panel(
            "not_healthy",
            "What is not healthy?",
            "evidence: 100 % is what pages. covered_by: whose incident speaks for this one, a base's for its adapters'."
            " bad_pods: where the responses against it came from. Click a subject for its evidence, a cause for its"
            " runbook. `gapwatch query degraded`",
            NOT_HEALTHY,
            width=19,
            height=8,
            units={"retention": "percentunit", "evidence": "percentunit"},
            links={"subject": WHY, "cause": RUNBOOK},
        ),
        Panel(
            "incidents",
            "Which incidents are open, and for how long?",
            "all of it: the command that tells it on one screen; the page's key is in it.",
            INCIDENTS,
            height=6,
            units={"minutes": "m"},
            links={"subject": SINCE, "cause": RUNBOOK},
        ),
        Panel(
            "evidence",
            "How near is a page?",
            "The strongest stream of the 20 nearest. At 100 % of its threshold it pages. `gapwatch query evidence`",
            EVIDENCE,
            Shape.LINES,
            width=12,
            unit="percentunit",
            threshold=1,
        ),
        Panel(
            "retention",
            "How much of its effect has each adapter kept?",
            "The 20 that fell lowest. 100 % is intact, 0 the bare base. `gapwatch query retention`",
            retention("adapter"),
            Shape.LINES,
            width=12,
            unit="percentunit",
        ),
        Panel(
            "watched",
            "What does green mean?",
            "A loss of strength below the smallest that pages may stay unseen. Empty: it is not known, or no loss"
            " up to a half pages within 20 rounds. blocked: why nothing is measured. `gapwatch query watched`",
            WATCHED,
            units={"retention": "percentunit", "smallest loss that pages": "percentunit", "after at most": "s"},
            links={"subject": WHY},
        ),
    ),
)
