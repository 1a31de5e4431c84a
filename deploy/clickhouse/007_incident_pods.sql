-- One row for each subject and pod that judged it: what the on-call questions about incidents have in common.
-- concerned: is it part of the newest incident? That is the newest alarm, and those of other pods that were still bad when
-- its trouble began. speaks: each pod that is alive speaks for itself; of those that are gone, only the one that had the
-- last word. Parameters: subject and cluster, '' for all.

CREATE VIEW IF NOT EXISTS incident_pods AS
WITH by_pod AS (
    SELECT
        cluster, subject_kind, subject, pod, max(at) AS judged, argMax(status, at) AS latest,
        -- Not knowing ends no incident.
        argMaxIf(status, at, status != 'unmonitorable') = 'degraded' AS is_open,
        countIf(reason = 'alarm') > 0 AS alarmed, maxIf(at, reason = 'alarm') AS alarm_at, maxIf(at, status = 'degraded') AS bad_at,
        argMaxIf(cause, at, status = 'degraded') AS last_cause,
        -- Inside a tuple, because argMax would skip a NULL and answer with an older alarm's.
        argMaxIf(tuple(onset_after, onset_by, live_base, live_adapter, members), at, reason = 'alarm') AS alarm,
        coalesce(alarm.1, alarm.2, alarm_at) AS onset
    FROM verdicts
    WHERE ({subject:String} = '' OR subject = {subject:String}) AND ({cluster:String} = '' OR cluster = {cluster:String})
    GROUP BY cluster, subject_kind, subject, pod
)
SELECT
    *, alarmed AND bad_at >= argMaxIf(onset, alarm_at, alarmed) OVER subjects AS concerned,
    judged = max(judged) OVER subjects
    OR (cluster, pod) IN (SELECT cluster, pod FROM heartbeats WHERE at > now() - INTERVAL 3 MINUTE) AS speaks
FROM by_pod
WINDOW subjects AS (PARTITION BY cluster, subject_kind, subject);
