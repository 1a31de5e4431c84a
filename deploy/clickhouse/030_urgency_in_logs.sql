-- Verdicts and notices as logs, as since 027, and of a notice how urgent the policy took it for and whose service got it: an
-- incident that the policy calls a warning is one here too.

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
    -- In rows from before the column severity, by the reason.
    multiIf(
        kind != 'trigger', 'INFO', n.severity != '', transform(toString(n.severity), ['info', 'warning'], ['INFO', 'WARN'], 'ERROR'),
        reason = 'cannot_tell', 'WARN', 'ERROR'
    ) AS level,
    transform(level, ['INFO', 'WARN', 'ERROR'], [9, 13, 17], 0)::UInt8,
    'gapwatch', summary, '',
    map('service.name', 'gapwatch', 'service.instance.id', toString(pod), 'k8s.cluster.name', toString(cluster), 'k8s.pod.name', toString(pod))
        ::Map(LowCardinality(String), String),
    '', 'gapwatch', '', map()::Map(LowCardinality(String), String),
    mapFilter((name, value) -> value != '', map(
        'event.name', 'gapwatch.notice', 'gapwatch.notice.kind', toString(kind), 'gapwatch.notice.reason', toString(reason),
        'gapwatch.notice.dedup_key', dedup_key, 'gapwatch.subject_kind', toString(subject_kind), 'gapwatch.subject', toString(subject),
        'gapwatch.base', toString(base), 'gapwatch.cause', toString(cause), 'gapwatch.round', toString(round),
        'gapwatch.notice.severity', toString(n.severity), 'gapwatch.notice.owner', toString(n.owner)
    ))::Map(LowCardinality(String), String)
FROM notices AS n;
