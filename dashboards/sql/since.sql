-- Since when is it degraded, and which files were in place when it was last healthy?
-- Ask it for the begin of an incident, and for the hashes to roll back to.
-- subject = '': adapter or base, degraded now or not; all that are degraded now when empty
-- cluster = '': one cluster, or all when empty
WITH
-- Looked for first: few subjects ever alarmed, and of the others nothing has to be worked out.
ever_alarmed AS (
    SELECT DISTINCT cluster, subject_kind, subject FROM verdicts
    WHERE reason = 'alarm' AND ({subject:String} = '' OR subject = {subject:String}) AND ({cluster:String} = '' OR cluster = {cluster:String})
),
of_incidents AS (
    SELECT
        cluster, subject_kind, subject, minIf(alarm_at, concerned) AS first_alarm, argMinIf(alarm, alarm_at, concerned) AS told,
        argMinIf(tuple(alarm.1, alarm.2), onset, concerned) AS began, argMaxIf(last_cause, bad_at, concerned) AS cause,
        argMaxIf(latest, tuple(indexOf(['healthy', 'unmonitorable', 'suspect', 'degraded'], latest), judged), speaks) AS status_now
    FROM incident_pods(subject = {subject:String}, cluster = {cluster:String})
    WHERE (cluster, subject_kind, subject) IN ever_alarmed
    GROUP BY cluster, subject_kind, subject
    HAVING countIf(concerned) > 0 AND ({subject:String} != '' OR maxIf(is_open, speaks))
),
-- Worked out once: a WITH table is computed at each place that names it, a value once.
(SELECT groupArray(tuple(cluster, subject_kind, subject, first_alarm, told, began, cause, status_now)) FROM of_incidents) AS rows_of_incidents,
alarms AS (
    SELECT
        arrayJoin(rows_of_incidents) AS i, i.1 AS cluster, i.2 AS subject_kind, i.3 AS subject, i.4 AS first_alarm, i.5 AS told,
        i.6 AS began, i.7 AS cause, i.8 AS status_now, coalesce(i.6.1, i.4) AS good_until
),
-- Verdicts stay healthy until evidence is enough, also after the files have changed: those of before the onset count.
healthy AS (
    SELECT
        v.cluster AS cluster, v.subject_kind AS subject_kind, v.subject AS subject, max(v.at) AS last_healthy,
        argMax(v.round, v.at) AS healthy_round, argMax(v.live_base, v.at) AS healthy_base,
        argMax(v.live_adapter, v.at) AS healthy_adapter
    FROM verdicts AS v INNER JOIN alarms AS a
        ON v.cluster = a.cluster AND v.subject_kind = a.subject_kind AND v.subject = a.subject
    WHERE (v.cluster, v.subject_kind, v.subject) IN ever_alarmed AND v.status = 'healthy' AND v.at <= a.good_until AND v.at < a.first_alarm
    GROUP BY cluster, subject_kind, subject
),
-- Between which times the fault began, with 95 % confidence, by the first alarm; NULL where that does not say.
dated AS (
    SELECT
        v.cluster AS cluster, v.subject_kind AS subject_kind, v.subject AS subject,
        any(v.onset_earliest) AS earliest, any(v.onset_latest) AS latest
    FROM verdicts AS v INNER JOIN alarms AS a
        ON v.cluster = a.cluster AND v.subject_kind = a.subject_kind AND v.subject = a.subject
    WHERE v.reason = 'alarm' AND v.at = a.first_alarm
    GROUP BY cluster, subject_kind, subject
)
SELECT
    a.cluster AS cluster, a.subject_kind AS subject_kind, a.subject AS subject, a.status_now AS status_now, a.cause AS cause,
    a.began.1 AS onset_after, a.began.2 AS onset_by, d.earliest AS onset_earliest, d.latest AS onset_latest,
    a.first_alarm AS alarm_at,
    if(h.subject = '', NULL, h.last_healthy) AS last_healthy, if(h.subject = '', NULL, h.healthy_round) AS healthy_round,
    h.healthy_base AS healthy_base, a.told.3 AS live_base,
    h.healthy_adapter AS healthy_adapter, a.told.4 AS live_adapter
FROM alarms AS a LEFT JOIN healthy AS h
    ON a.cluster = h.cluster AND a.subject_kind = h.subject_kind AND a.subject = h.subject
LEFT JOIN dated AS d ON a.cluster = d.cluster AND a.subject_kind = d.subject_kind AND a.subject = d.subject
ORDER BY alarm_at DESC
