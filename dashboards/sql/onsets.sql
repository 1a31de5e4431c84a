-- When did the fault of each alarm begin, when was it last measured bad, and when good again?
-- Ask it for the times of an incident and of those before it; `gapwatch report` takes its windows from it.
-- subject = '': adapter or base; all when empty
-- cluster = '': one cluster, or all when empty
-- days = 90: how far back
WITH bad AS (
    SELECT
        *,
        -- Each alarm of a pod with all that it said of it afterwards.
        sum(reason = 'alarm') OVER (
            PARTITION BY cluster, subject_kind, subject, pod ORDER BY at, reason != 'alarm' ROWS UNBOUNDED PRECEDING
        ) AS number
    FROM verdicts
    WHERE status = 'degraded' AND at > now() - toIntervalDay({days:UInt32})
        AND ({subject:String} = '' OR subject = {subject:String}) AND ({cluster:String} = '' OR cluster = {cluster:String})
),
marked AS (
    SELECT
        *,
        -- By the rows: a run of equal verdicts that is not over may have no row for an hour.
        maxIf(at, reason != 'recovering') OVER (PARTITION BY cluster, subject_kind, subject, pod, number) AS last_bad
    FROM bad WHERE number > 0
),
alarms AS (
    SELECT
        min(v.at) AS alarm_at, subject_kind, subject, any(base) AS base, pod, any(v.last_bad) AS last_bad_at,
        -- The first good round after it; NULL where there was none, or the first one was also the end.
        minOrNullIf(v.at, v.reason = 'recovering' AND v.at > v.last_bad) AS good_at,
        -- Inside a tuple, because argMin would skip a NULL.
        argMin(tuple(v.onset_after, v.onset_by, v.onset_earliest, v.onset_latest), v.at) AS onset, cluster
    FROM marked AS v
    GROUP BY cluster, subject_kind, subject, pod, number
)
SELECT
    alarm_at, subject_kind, subject, base, pod, onset.1 AS onset_after, onset.2 AS onset_by,
    onset.3 AS onset_earliest, onset.4 AS onset_latest, last_bad_at, good_at, cluster
FROM alarms
ORDER BY alarm_at DESC, subject, pod
