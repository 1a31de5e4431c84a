"""Why is it called degraded? Evidence against its threshold, what was measured, and what changed just before."""

from __future__ import annotations

from dashboards.board import Dashboard, Panel, Shape
from dashboards.fragments import (
    CLUSTERS,
    IN_CLUSTERS,
    OF_ADAPTERS,
    OF_SUBJECTS,
    RUNBOOK,
    SINCE,
    SUBJECTS,
    cause,
    retention,
)

EVIDENCE = f"""\
SELECT time, series, level FROM (
    SELECT
        $__timeInterval(at) AS time, concat(subject, ' ', detector, if(stream = '', '', concat(' ', stream))) AS series,
        max(log_e) AS level
    FROM evidence
    WHERE $__timeFilter(at) AND pages AND {IN_CLUSTERS} AND {OF_SUBJECTS}
    GROUP BY time, series
    UNION ALL
    SELECT $__timeInterval(at) AS time, concat(subject, ' pages at') AS series, max(log_threshold) AS level
    FROM verdicts
    WHERE $__timeFilter(at) AND isFinite(log_threshold) AND log_threshold > 0 AND {IN_CLUSTERS} AND {OF_SUBJECTS}
    GROUP BY time, series
)
ORDER BY time, series"""

MEASURED = f"""\
SELECT time, series, value FROM (
    SELECT $__timeInterval(at) AS time, arrayJoin([
        ('strength', avgIf(scale, isFinite(scale))), ('other than strength', avgIf(distortion, isFinite(distortion))),
        ('shift of the base', avgIf(base_shift, isFinite(base_shift))),
        ('same first token', avgIf(top1_agreement, isFinite(top1_agreement)))
    ]) AS pair, concat(adapter, ': ', pair.1) AS series, pair.2 AS value
    FROM rounds
    WHERE $__timeFilter(at) AND blocked = '' AND {IN_CLUSTERS} AND {OF_ADAPTERS}
    GROUP BY time, adapter
)
WHERE isFinite(value)
ORDER BY time, series"""

VERDICTS = f"""\
SELECT
    at, status, subject, {cause("status", "v.cause")} AS cause, reason,
    if(isFinite(v.retention), v.retention, NULL) AS retention,
    if(isFinite(retention_low), retention_low, NULL) AS `at least`,
    if(isFinite(retention_high), retention_high, NULL) AS `at most`,
    if(log_threshold > 0, log_e / log_threshold, NULL) AS evidence, explanation, action, answered_by, pod, cluster
FROM verdicts AS v
WHERE $__timeFilter(at) AND {IN_CLUSTERS} AND {OF_SUBJECTS}
ORDER BY at DESC, subject
LIMIT 200"""

# As dashboards/sql/identity.sql, of the whole window. An empty hash was not taken; two schemes do not compare.
CHANGED = f"""\
WITH parts AS (
    SELECT
        cluster, base, adapter, pod, at, hash_scheme, arrayJoin([
            ('base', live_base), ('adapter', live_adapter), ('tokenizer', live_tokenizer),
            ('chat template', live_template), ('engine', live_engine), ('source in the engine', live_source)
        ]) AS part
    FROM rounds
    WHERE $__timeFilter(at) AND {IN_CLUSTERS} AND {OF_ADAPTERS}
),
steps AS (
    SELECT
        cluster, base, adapter, pod, at, hash_scheme, part.1 AS changed, part.2 AS after,
        lagInFrame(part.2) OVER w AS before
    FROM parts WHERE part.2 != ''
    WINDOW w AS (
        PARTITION BY cluster, base, adapter, pod, part.1, hash_scheme ORDER BY at
        ROWS BETWEEN 1 PRECEDING AND CURRENT ROW
    )
)
SELECT at, changed, before, after, arrayStringConcat(arraySort(groupUniqArray(adapter)), ', ') AS adapters, base, pod,
    cluster
FROM steps
WHERE before != '' AND before != after
GROUP BY at, changed, before, after, base, pod, cluster
ORDER BY at DESC, changed
LIMIT 100"""

CANARIES = f"""\
WITH latest AS (
    SELECT cluster, adapter, pod, max(at) AS latest_at FROM comparisons
    WHERE $__timeFilter(at) AND {IN_CLUSTERS} AND {OF_ADAPTERS} GROUP BY cluster, adapter, pod
),
flipped AS (
    SELECT
        f.cluster AS cluster, f.adapter AS adapter, f.canary AS canary, max(f.at) AS flipped_at,
        argMax(multiIf(
            isNull(f.golden_passes) OR isNull(f.present_passes), '',
            f.golden_passes AND NOT f.present_passes, 'lost', 'kept'
        ), f.at) AS task
    FROM flips AS f WHERE $__timeFilter(f.at) GROUP BY cluster, adapter, canary
)
SELECT
    c.adapter AS adapter, c.canary AS canary, c.half AS half, c.route AS route,
    if(isFinite(c.retention), c.retention, NULL) AS retention,
    c.kl_golden_served AS `nats a token from accepted`, c.top1_agreement AS `same first token`,
    if(f.canary = '', NULL, f.flipped_at) AS `answer changed`, f.task AS task, c.at AS at, c.pod AS pod,
    c.cluster AS cluster
FROM comparisons AS c
    INNER JOIN latest AS l ON c.cluster = l.cluster AND c.adapter = l.adapter AND c.pod = l.pod AND c.at = l.latest_at
    LEFT JOIN flipped AS f ON c.cluster = f.cluster AND c.adapter = f.adapter AND c.canary = f.canary
WHERE $__timeFilter(c.at)
ORDER BY `nats a token from accepted` DESC, adapter, canary
LIMIT 100"""

RESPONSES = f"""\
SELECT $__timeInterval(at) AS time, concat(adapter, if(against > 0, ': against', ': for')) AS series,
    count() AS responses
FROM traffic_scores
WHERE $__timeFilter(at) AND scored != 'not_scored' AND {IN_CLUSTERS} AND {OF_ADAPTERS}
GROUP BY time, series
ORDER BY time, series"""

WHY = Dashboard(
    uid="gapwatch-why",
    title="gapwatch: why",
    about="What a verdict rests on. Choose one adapter or base above.",
    since="now-6h",
    refresh="1m",
    filters=(CLUSTERS, SUBJECTS),
    panels=(
        Panel(
            "evidence",
            "How did the evidence grow, compared with the threshold for a page?",
            "In nats, by stream; it pages where one reaches the line 'pages at'. `gapwatch query evidence`",
            EVIDENCE,
            Shape.LINES,
            width=12,
            height=9,
        ),
        Panel(
            "retention",
            "How much of its effect is left, pod by pod?",
            "One pod alone: its engine or its files. All at once: what they share. `gapwatch query retention`",
            retention("concat(adapter, ' ', pod)"),
            Shape.LINES,
            width=12,
            height=9,
            unit="percentunit",
        ),
        Panel(
            "measured",
            "What kind of change is it?",
            "Strength alone: scaled or not applied. Other than strength: another adapter, or part of it. A shift of the"
            " base: it itself is another one. `gapwatch query rounds`",
            MEASURED,
            Shape.LINES,
            width=12,
        ),
        Panel(
            "responses",
            "Do sampled responses speak against the accepted adapter?",
            "Each response for or against it, all alternatives weighed. `gapwatch query responses`",
            RESPONSES,
            Shape.BARS,
            width=12,
        ),
        Panel(
            "verdicts",
            "What was decided, and why?",
            "Verdicts are stored on change and once an hour. Click a cause for its runbook, a subject for since when.",
            VERDICTS,
            units=dict.fromkeys(("retention", "at least", "at most", "evidence"), "percentunit"),
            links={"subject": SINCE, "cause": RUNBOOK},
        ),
        Panel(
            "changed",
            "What changed?",
            "Hashes of files, and what the engine says of itself. Just before the onset: `gapwatch query identity`",
            CHANGED,
            width=12,
        ),
        Panel(
            "canaries",
            "Which canaries changed most, in the latest round?",
            "task: 'lost' where the canary's own check passed as accepted and fails now. Texts may be production's,"
            " so none is here: `gapwatch query flipped`",
            CANARIES,
            width=12,
            units={"retention": "percentunit", "same first token": "percentunit"},
        ),
    ),
)
