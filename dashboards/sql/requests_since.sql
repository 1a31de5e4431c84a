-- How many production requests were served since the onset, per adapter and pod?
-- subject = '': adapter or base, until it recovered if it has; all that are degraded now when empty
-- cluster = '': one cluster, or all when empty
WITH onsets AS (
    SELECT
        cluster, subject_kind, subject,
        -- Inside a tuple, because argMax would skip a NULL and answer with an older alarm's.
        argMaxIf(tuple(coalesce(onset_after, onset_by)), at, reason = 'alarm').1 AS onset,
        argMaxIf(members, at, reason = 'alarm') AS members, argMax(status, at) AS status_now,
        if(status_now = 'healthy', maxIf(at, reason = 'resolved'), now64(3)) AS until
    FROM verdicts
    WHERE ({subject:String} = '' OR subject = {subject:String}) AND ({cluster:String} = '' OR cluster = {cluster:String})
    GROUP BY cluster, subject_kind, subject
    HAVING countIf(reason = 'alarm') > 0 AND ({subject:String} != '' OR status_now != 'healthy')
),
adapters AS (
    SELECT cluster, adapter, min(onset) AS onset, max(until) AS until
    FROM (
        SELECT cluster, onset, until, arrayJoin(if(subject_kind = 'base', members, [toString(subject)])) AS adapter
        FROM onsets
    )
    GROUP BY cluster, adapter
)
SELECT
    c.cluster AS cluster, c.adapter AS adapter, c.pod AS pod, a.onset AS onset, sum(c.n) AS requests,
    max(c.minute) AS last_minute
-- FINAL: an offset range that was inserted twice must count once. Counts are by the minute, the onset's own minute included.
FROM request_counts AS c FINAL INNER JOIN adapters AS a ON c.cluster = a.cluster AND c.adapter = a.adapter
WHERE c.minute >= toStartOfMinute(a.onset) AND c.minute <= a.until
GROUP BY cluster, adapter, pod, onset
ORDER BY requests DESC
