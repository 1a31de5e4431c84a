-- What other tools read without knowing these tables: what is not healthy now, and verdicts and notices in the shape of the
-- logs that the OpenTelemetry collector's ClickHouse exporter writes.

-- The question `degraded` of the last day and of all clusters, without parameters: a view that names one with parameters cannot be
-- read from another database. A plain view, always of this moment: a refreshable one would be up to its interval late, is refused by
-- the embedded engine in its default database, and needs a server of 24.10 or later.
CREATE OR REPLACE VIEW degraded_now AS
WITH rows_by_pod AS (
    SELECT
        cluster, subject_kind, subject, base, pod, max(at) AS last_row,
        argMax(tuple(
            status, reason, cause, retention, log_e, log_threshold, covered_by, explanation, action,
            answered_by, files, files_known_by
        ), at) AS latest,
        indexOf(['healthy', 'unmonitorable', 'suspect', 'degraded'], latest.1) AS badness
    FROM verdicts
    WHERE at > now() - INTERVAL 25 HOUR
    GROUP BY cluster, subject_kind, subject, base, pod
),
beats AS (SELECT cluster, pod, max(at) AS beat FROM heartbeats GROUP BY cluster, pod),
watched AS (SELECT cluster, pod, argMax(w.subjects, w.at) AS subjects FROM watching AS w GROUP BY cluster, pod),
-- A pod that shows signs of life has said the same since its last row, of what it still judges.
by_pod AS (
    SELECT
        v.cluster AS cluster, v.subject_kind AS subject_kind, v.subject AS subject, v.base AS base, v.pod AS pod,
        if(w.pod = '' OR has(w.subjects, concat(v.subject_kind, '/', v.subject)), b.beat, v.last_row) AS beat,
        greatest(v.last_row, least(beat, v.last_row + INTERVAL 1 HOUR)) AS judged, v.latest AS latest, v.badness AS badness,
        beat > now() - INTERVAL 3 MINUTE AS is_alive
    FROM rows_by_pod AS v LEFT JOIN beats AS b ON v.cluster = b.cluster AND v.pod = b.pod
        LEFT JOIN watched AS w ON v.cluster = w.cluster AND v.pod = w.pod
    WHERE judged > now() - INTERVAL 24 HOUR
),
-- Verdicts of every pod that is alive count; of a pod that is gone, only if its verdict is the latest on the subject.
pods AS (
    SELECT *, judged = max(judged) OVER (PARTITION BY cluster, subject_kind, subject) OR is_alive AS speaks
    FROM by_pod
),
subjects AS (
    SELECT
        cluster, subject_kind, subject, base, max(judged) AS last_judged,
        argMax(latest, tuple(badness, judged)) AS worst, argMax(pod, tuple(badness, judged)) AS judged_by
    FROM pods WHERE speaks
    GROUP BY cluster, subject_kind, subject, base
)
SELECT
    cluster, subject_kind, subject, base, worst.1 AS status, worst.2 AS reason, worst.3 AS cause, worst.4 AS retention,
    worst.5 AS log_e, worst.6 AS log_threshold, worst.7 AS covered_by, last_judged, judged_by,
    worst.10 AS answered_by, worst.11 AS files, worst.12 AS files_known_by, worst.8 AS explanation, worst.9 AS action
FROM subjects
WHERE status != 'healthy';

-- Names by the conventions in agent/open_telemetry/conventions.py. Columns: exporter/clickhouseexporter of
-- opentelemetry-collector-contrib, internal/sql_templates/logs_table.sql.
CREATE OR REPLACE VIEW verdicts_and_notices_as_logs AS
SELECT
    toDateTime64(at, 9, 'UTC') AS Timestamp, toDateTime(at) AS TimestampTime, '' AS TraceId, '' AS SpanId, toUInt8(0) AS TraceFlags,
    transform(toString(status), ['healthy', 'degraded'], ['INFO', 'ERROR'], 'WARN') AS SeverityText,
    transform(SeverityText, ['INFO', 'WARN', 'ERROR'], [9, 13, 17], 0)::UInt8 AS SeverityNumber,
    'gapwatch' AS ServiceName, explanation AS Body, '' AS ResourceSchemaUrl,
    map('service.name', 'gapwatch', 'service.instance.id', toString(pod), 'k8s.cluster.name', toString(cluster), 'k8s.pod.name', toString(pod))
        ::Map(LowCardinality(String), String) AS ResourceAttributes,
    '' AS ScopeSchemaUrl, 'gapwatch' AS ScopeName, '' AS ScopeVersion, map()::Map(LowCardinality(String), String) AS ScopeAttributes,
    mapFilter((name, value) -> value NOT IN ('', 'nan', 'inf'), map(
        'event.name', 'gen_ai.evaluation.result', 'gen_ai.evaluation.name', 'gapwatch.retention',
        'gen_ai.evaluation.score.value', toString(retention), 'gen_ai.evaluation.score.label', toString(status),
        'gen_ai.evaluation.explanation', explanation, 'gapwatch.subject_kind', toString(subject_kind),
        'gapwatch.subject', toString(subject), 'gapwatch.base', toString(base), 'gapwatch.reason', toString(reason),
        'gapwatch.cause', toString(cause), 'gapwatch.evidence', toString(log_e), 'gapwatch.threshold', toString(log_threshold),
        'gapwatch.round', toString(round)
    ))::Map(LowCardinality(String), String) AS LogAttributes
FROM verdicts
UNION ALL
SELECT
    toDateTime64(at, 9, 'UTC'), toDateTime(at), '', '', toUInt8(0),
    multiIf(kind != 'trigger', 'INFO', reason = 'cannot_tell', 'WARN', 'ERROR') AS severity,
    transform(severity, ['INFO', 'WARN', 'ERROR'], [9, 13, 17], 0)::UInt8,
    'gapwatch', summary, '',
    map('service.name', 'gapwatch', 'service.instance.id', toString(pod), 'k8s.cluster.name', toString(cluster), 'k8s.pod.name', toString(pod))
        ::Map(LowCardinality(String), String),
    '', 'gapwatch', '', map()::Map(LowCardinality(String), String),
    mapFilter((name, value) -> value != '', map(
        'event.name', 'gapwatch.notice', 'gapwatch.notice.kind', toString(kind), 'gapwatch.notice.reason', toString(reason),
        'gapwatch.notice.dedup_key', dedup_key, 'gapwatch.subject_kind', toString(subject_kind), 'gapwatch.subject', toString(subject),
        'gapwatch.base', toString(base), 'gapwatch.cause', toString(cause), 'gapwatch.round', toString(round)
    ))::Map(LowCardinality(String), String)
FROM notices;

-- The name that such tools look for by themselves. Where the collector writes into this database too, its table keeps the name.
CREATE VIEW IF NOT EXISTS otel_logs AS SELECT * FROM verdicts_and_notices_as_logs;
