-- Verdicts are stored on change and once an hour: a pod that shows signs of life has said the same since its last row. So
-- judged is when a pod last judged the subject, and bad_at when it was last bad, by its rows and by its heartbeats. Else as
-- in 007: one row for each subject and pod that judged it.

CREATE OR REPLACE VIEW incident_pods AS
WITH rows_by_pod AS (
    SELECT
        cluster, subject_kind, subject, pod, max(at) AS last_row, argMax(status, at) AS latest,
        -- Not knowing ends no incident.
        argMaxIf(status, at, status != 'unmonitorable') = 'degraded' AS is_open,
        countIf(reason = 'alarm') > 0 AS alarmed, maxIf(at, reason = 'alarm') AS alarm_at, maxIf(at, status = 'degraded') AS last_bad_row,
        argMaxIf(cause, at, status = 'degraded') AS last_cause,
        -- Inside a tuple, because argMax would skip a NULL and answer with an older alarm's.
        argMaxIf(tuple(onset_after, onset_by, live_base, live_adapter, members), at, reason = 'alarm') AS alarm,
        coalesce(alarm.1, alarm.2, alarm_at) AS onset
    FROM verdicts
    WHERE ({subject:String} = '' OR subject = {subject:String}) AND ({cluster:String} = '' OR cluster = {cluster:String})
    GROUP BY cluster, subject_kind, subject, pod
),
beats AS (SELECT cluster, pod, max(at) AS beat FROM heartbeats GROUP BY cluster, pod),
by_pod AS (
    SELECT
        v.cluster AS cluster, v.subject_kind AS subject_kind, v.subject AS subject, v.pod AS pod,
        greatest(v.last_row, least(b.beat, v.last_row + INTERVAL 1 HOUR)) AS judged, v.latest AS latest, v.is_open AS is_open,
        v.alarmed AS alarmed, v.alarm_at AS alarm_at, if(v.latest = 'degraded', judged, v.last_bad_row) AS bad_at,
        v.last_cause AS last_cause, v.alarm AS alarm, v.onset AS onset, b.beat > now() - INTERVAL 3 MINUTE AS is_alive
    FROM rows_by_pod AS v LEFT JOIN beats AS b ON v.cluster = b.cluster AND v.pod = b.pod
)
SELECT
    *, alarmed AND bad_at >= argMaxIf(onset, alarm_at, alarmed) OVER subjects AS concerned,
    judged = max(judged) OVER subjects OR is_alive AS speaks
FROM by_pod
WINDOW subjects AS (PARTITION BY cluster, subject_kind, subject);
