-- What is degraded, suspect or unmonitorable now, and for whose fault?
-- cluster = '': one cluster, or all when empty
-- hours = 24: how far back a subject may last have been judged
WITH by_pod AS (
    SELECT
        cluster, subject_kind, subject, base, pod, max(at) AS judged,
        argMax(tuple(status, reason, cause, retention, log_e, log_threshold, covered_by, explanation, action), at) AS last,
        indexOf(['healthy', 'unmonitorable', 'suspect', 'degraded'], last.1) AS badness
    FROM verdicts
    WHERE ({cluster:String} = '' OR cluster = {cluster:String}) AND at > now() - toIntervalHour({hours:UInt32})
    GROUP BY cluster, subject_kind, subject, base, pod
),
-- Pods that are alive count, each by its latest verdict; where none is, the last word that was said.
present AS (
    SELECT *, max(judged) OVER (PARTITION BY cluster, subject_kind, subject) AS newest
    FROM by_pod
    QUALIFY judged = newest
        OR (cluster, pod) IN (SELECT cluster, pod FROM heartbeats WHERE at > now() - INTERVAL 3 MINUTE)
)
SELECT
    cluster, subject_kind, subject, base,
    argMax(last, (badness, judged)) AS worst, worst.1 AS status, worst.2 AS reason, worst.3 AS cause,
    worst.4 AS retention, worst.5 AS log_e, worst.6 AS log_threshold, worst.7 AS covered_by,
    max(judged) AS last_judged, worst.8 AS explanation, worst.9 AS action, argMax(pod, (badness, judged)) AS judged_by
FROM present
GROUP BY cluster, subject_kind, subject, base
HAVING status != 'healthy'
ORDER BY status = 'degraded' DESC, subject_kind = 'base' DESC, subject
