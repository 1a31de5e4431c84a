-- How many production requests were served since the onset, per adapter and pod?
-- subject = '': adapter or base, until it recovered if it has; all that are degraded now when empty
-- cluster = '': one cluster, or all when empty
WITH by_pod AS (
    SELECT
        cluster, subject_kind, subject, pod, max(at) AS judged, argMax(status, at) AS latest,
        -- Not knowing ends no incident.
        argMaxIf(status, at, status != 'unmonitorable') = 'degraded' AS is_open,
        countIf(reason = 'alarm') > 0 AS alarmed, maxIf(at, reason = 'alarm') AS alarm_at, maxIf(at, status = 'degraded') AS bad_at,
        -- Inside a tuple, because argMax would skip a NULL and answer with an older alarm's.
        argMaxIf(tuple(onset_after, onset_by, members), at, reason = 'alarm') AS alarm,
        coalesce(alarm.1, alarm.2, alarm_at) AS onset
    FROM verdicts
    WHERE ({subject:String} = '' OR subject = {subject:String}) AND ({cluster:String} = '' OR cluster = {cluster:String})
    GROUP BY cluster, subject_kind, subject, pod
),
-- Each pod that is alive speaks for itself; of those that are gone, only one that had the last word.
-- One incident: the newest alarm, and those of other pods that were still bad when its trouble began.
pods AS (
    SELECT
        *, alarmed AND bad_at >= argMaxIf(onset, alarm_at, alarmed) OVER subjects AS concerned,
        judged = max(judged) OVER subjects
        OR (cluster, pod) IN (SELECT cluster, pod FROM heartbeats WHERE at > now() - INTERVAL 3 MINUTE) AS speaks
    FROM by_pod
    WINDOW subjects AS (PARTITION BY cluster, subject_kind, subject)
),
onsets AS (
    SELECT
        cluster, subject_kind, subject, minIf(onset, concerned) AS began, max(bad_at) AS last_bad,
        arrayDistinct(groupArrayArrayIf(alarm.3, concerned)) AS concerns, maxIf(is_open, speaks) AS still_open
    FROM pods
    GROUP BY cluster, subject_kind, subject
    HAVING countIf(concerned) > 0 AND ({subject:String} != '' OR still_open)
),
ends AS (
    SELECT v.cluster AS cluster, v.subject_kind AS subject_kind, v.subject AS subject, min(v.at) AS ended
    FROM verdicts AS v INNER JOIN onsets AS o
        ON v.cluster = o.cluster AND v.subject_kind = o.subject_kind AND v.subject = o.subject
    WHERE v.status = 'healthy' AND v.at > o.last_bad
    GROUP BY cluster, subject_kind, subject
),
adapters AS (
    SELECT cluster, adapter, min(began) AS onset, max(until) AS until
    FROM (
        SELECT
            o.cluster AS cluster, o.began AS began, if(o.still_open OR e.subject = '', now64(3), e.ended) AS until,
            arrayJoin(if(o.subject_kind = 'base', o.concerns, [toString(o.subject)])) AS adapter
        FROM onsets AS o LEFT JOIN ends AS e
            ON o.cluster = e.cluster AND o.subject_kind = e.subject_kind AND o.subject = e.subject
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
