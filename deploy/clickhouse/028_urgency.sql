-- How urgent each notice was and whose service got it, as alerts.policy decided it when it was sent.

ALTER TABLE notices
    ADD COLUMN IF NOT EXISTS severity LowCardinality(String) COMMENT 'critical, error, warning, info; empty in rows from before this column' AFTER cause,
    ADD COLUMN IF NOT EXISTS owner LowCardinality(String) COMMENT 'whose service got it; empty for the one that gets all without an owner' AFTER severity;

-- One row for each incident that was reported, of whichever pods: from its first notice to the one that ended it. Severity and
-- owner are those of its latest trigger: a cause that is known better may be another owner's.
-- Parameters: subject and cluster, '' for all.
CREATE OR REPLACE VIEW incidents AS
WITH steps AS (
    SELECT
        cluster, dedup_key, subject_kind, subject, base, pod, at, kind, reason, cause, severity, owner, summary,
        -- A trigger under an open incident is one more notice of it.
        kind = 'trigger' AND lagInFrame(kind) OVER w != 'trigger' AS opens
    FROM notices
    WHERE kind IN ('trigger', 'resolve')
        AND ({subject:String} = '' OR subject = {subject:String}) AND ({cluster:String} = '' OR cluster = {cluster:String})
    WINDOW w AS (PARTITION BY cluster, dedup_key ORDER BY at, kind ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)
),
numbered AS (
    SELECT *, sum(opens) OVER (PARTITION BY cluster, dedup_key ORDER BY at, kind) AS number FROM steps
),
whole AS (
    SELECT
        cluster, dedup_key, number, any(subject_kind) AS subject_kind, any(subject) AS subject, any(base) AS base,
        min(at) AS opened_at, maxOrNullIf(at, kind = 'resolve') AS ended_at, argMaxIf(reason, at, kind = 'resolve') AS ended_by,
        argMin(reason, at) AS opened_by, argMaxIf(cause, at, kind = 'trigger' AND cause != 'none') AS cause,
        argMaxIf(severity, at, kind = 'trigger') AS severity, argMaxIf(owner, at, kind = 'trigger') AS owner,
        argMaxIf(summary, at, kind = 'trigger') AS summary, count() AS notices, groupUniqArray(pod) AS pods
    FROM numbered
    WHERE number > 0
    GROUP BY cluster, dedup_key, number
)
SELECT
    *,
    -- Within a day of the end of the one before.
    number > 1 AND opened_at < lagInFrame(ended_at) OVER former + INTERVAL 1 DAY AS reopened
FROM whole
WINDOW former AS (PARTITION BY cluster, dedup_key ORDER BY number ROWS BETWEEN 1 PRECEDING AND CURRENT ROW);
