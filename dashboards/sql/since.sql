-- Since when, and what was in place when it was last healthy?
-- subject = '': adapter or base, degraded now or not; all that are degraded now when empty
-- cluster = '': one cluster, or all when empty
WITH alarms AS (
    SELECT
        cluster, subject_kind, subject, maxIf(at, reason = 'alarm') AS alarm_at, argMaxIf(cause, at, status = 'degraded') AS cause,
        -- Inside a tuple, because argMax would skip a NULL and answer with an older alarm's.
        argMaxIf(tuple(onset_after, onset_by), at, reason = 'alarm') AS onset,
        argMaxIf(live_base, at, reason = 'alarm') AS live_base, argMaxIf(live_adapter, at, reason = 'alarm') AS live_adapter,
        argMax(status, at) AS status_now
    FROM verdicts
    WHERE ({subject:String} = '' OR subject = {subject:String}) AND ({cluster:String} = '' OR cluster = {cluster:String})
    GROUP BY cluster, subject_kind, subject
    HAVING countIf(reason = 'alarm') > 0 AND ({subject:String} != '' OR status_now != 'healthy')
),
healthy AS (
    SELECT
        v.cluster AS cluster, v.subject_kind AS subject_kind, v.subject AS subject, max(v.at) AS last_healthy,
        argMax(v.round, v.at) AS healthy_round, argMax(v.live_base, v.at) AS healthy_base,
        argMax(v.live_adapter, v.at) AS healthy_adapter
    FROM verdicts AS v INNER JOIN alarms AS a
        ON v.cluster = a.cluster AND v.subject_kind = a.subject_kind AND v.subject = a.subject
    WHERE v.status = 'healthy' AND v.at < a.alarm_at
    GROUP BY cluster, subject_kind, subject
)
SELECT
    a.cluster AS cluster, a.subject_kind AS subject_kind, a.subject AS subject, a.status_now AS status_now, a.cause AS cause,
    a.onset.1 AS onset_after, a.onset.2 AS onset_by, a.alarm_at AS alarm_at,
    if(h.subject = '', NULL, h.last_healthy) AS last_healthy, if(h.subject = '', NULL, h.healthy_round) AS healthy_round,
    h.healthy_base AS healthy_base, a.live_base AS live_base,
    h.healthy_adapter AS healthy_adapter, a.live_adapter AS live_adapter
FROM alarms AS a LEFT JOIN healthy AS h
    ON a.cluster = h.cluster AND a.subject_kind = h.subject_kind AND a.subject = h.subject
ORDER BY alarm_at DESC
