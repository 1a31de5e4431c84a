-- Since when, and what was in place when it was last healthy?
-- subject = '': adapter or base, degraded now or not; all that are degraded now when empty
-- cluster = '': one cluster, or all when empty
WITH by_pod AS (
    SELECT
        cluster, subject_kind, subject, pod, max(at) AS judged, argMax(status, at) AS latest,
        -- Not knowing ends no incident.
        argMaxIf(status, at, status != 'unmonitorable') = 'degraded' AS is_open,
        countIf(reason = 'alarm') > 0 AS alarmed, maxIf(at, reason = 'alarm') AS alarm_at, maxIf(at, status = 'degraded') AS bad_at,
        argMaxIf(cause, at, status = 'degraded') AS last_cause,
        -- Inside a tuple, because argMax would skip a NULL and answer with an older alarm's.
        argMaxIf(tuple(onset_after, onset_by, live_base, live_adapter), at, reason = 'alarm') AS alarm,
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
alarms AS (
    SELECT
        cluster, subject_kind, subject, minIf(alarm_at, concerned) AS first_alarm, argMinIf(alarm, alarm_at, concerned) AS told,
        argMinIf(tuple(alarm.1, alarm.2), onset, concerned) AS began, argMaxIf(last_cause, bad_at, concerned) AS cause,
        argMaxIf(latest, tuple(indexOf(['healthy', 'unmonitorable', 'suspect', 'degraded'], latest), judged), speaks) AS status_now
    FROM pods
    GROUP BY cluster, subject_kind, subject
    HAVING countIf(concerned) > 0 AND ({subject:String} != '' OR maxIf(is_open, speaks))
),
healthy AS (
    SELECT
        v.cluster AS cluster, v.subject_kind AS subject_kind, v.subject AS subject, max(v.at) AS last_healthy,
        argMax(v.round, v.at) AS healthy_round, argMax(v.live_base, v.at) AS healthy_base,
        argMax(v.live_adapter, v.at) AS healthy_adapter
    FROM verdicts AS v INNER JOIN alarms AS a
        ON v.cluster = a.cluster AND v.subject_kind = a.subject_kind AND v.subject = a.subject
    WHERE v.status = 'healthy' AND v.at < a.first_alarm
    GROUP BY cluster, subject_kind, subject
)
SELECT
    a.cluster AS cluster, a.subject_kind AS subject_kind, a.subject AS subject, a.status_now AS status_now, a.cause AS cause,
    a.began.1 AS onset_after, a.began.2 AS onset_by, a.first_alarm AS alarm_at,
    if(h.subject = '', NULL, h.last_healthy) AS last_healthy, if(h.subject = '', NULL, h.healthy_round) AS healthy_round,
    h.healthy_base AS healthy_base, a.told.3 AS live_base,
    h.healthy_adapter AS healthy_adapter, a.told.4 AS live_adapter
FROM alarms AS a LEFT JOIN healthy AS h
    ON a.cluster = h.cluster AND a.subject_kind = h.subject_kind AND a.subject = h.subject
ORDER BY alarm_at DESC
