-- Each incident as one row. Where the turns of a stored prompt begin and end, so that it can be asked again as it was
-- (gapwatch canaries). And of each golden record the smallest change that it can show, for gapwatch query watched.

ALTER TABLE interactions
    ADD COLUMN IF NOT EXISTS roles Array(LowCardinality(String)) COMMENT 'of the turns of prompt, in order; empty where the text is not stored, and in rows from before this column',
    ADD COLUMN IF NOT EXISTS turn_chars Array(UInt32) COMMENT 'characters of each turn, without its role';

ALTER TABLE goldens
    ADD COLUMN IF NOT EXISTS smallest_loss Float64 DEFAULT nan COMMENT 'the smallest share of its strength whose loss pages within 20 rounds; nan where none does, and in rows from before this column',
    ADD COLUMN IF NOT EXISTS draws UInt32 COMMENT 'of canaries that this loss takes to page',
    ADD COLUMN IF NOT EXISTS tolerance Float64 DEFAULT nan COMMENT 'share of its strength that each canary may be off',
    ADD COLUMN IF NOT EXISTS made_on String COMMENT 'the serving engine that answered at enrolment, in words; empty where the files did';

-- One row for each incident that was reported, of whichever pods: from its first notice to the one that ended it.
-- Parameters: subject and cluster, '' for all.
CREATE OR REPLACE VIEW incidents AS
WITH steps AS (
    SELECT
        cluster, dedup_key, subject_kind, subject, base, pod, at, kind, reason, cause, summary,
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
