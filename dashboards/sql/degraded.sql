-- What is degraded, suspect or unmonitorable now, and for which cause?
-- Ask it first: it is what every page is about, and says what is missing until an incident ends.
-- cluster = '': one cluster, or all when empty
-- hours = 24: how far back a subject may last have been judged
-- Figures are those of a pod's latest row: verdicts are stored on change and once an hour.
WITH rows_by_pod AS (
    SELECT
        cluster, subject_kind, subject, base, pod, max(at) AS last_row,
        argMax(tuple(
            status, reason, cause, retention, log_e, log_threshold, covered_by, explanation, action,
            answered_by, files, files_known_by, bad_pods, scored_pods
        ), at) AS latest,
        indexOf(['healthy', 'unmonitorable', 'suspect', 'degraded'], latest.1) AS badness
    FROM verdicts
    WHERE ({cluster:String} = '' OR cluster = {cluster:String}) AND at > now() - toIntervalHour({hours:UInt32} + 1)
    GROUP BY cluster, subject_kind, subject, base, pod
),
beats AS (SELECT cluster, pod, max(at) AS beat FROM heartbeats GROUP BY cluster, pod),
watched AS (SELECT cluster, pod, argMax(w.subjects, w.at) AS subjects FROM watching AS w GROUP BY cluster, pod),
-- A pod that shows signs of life has said the same since its last row, of what it still judges.
by_pod AS (
    SELECT
        v.cluster AS cluster, v.subject_kind AS subject_kind, v.subject AS subject, v.base AS base, v.pod AS pod,
        if(w.pod = '' OR has(w.subjects, concat(v.subject_kind, '/', v.subject)), b.beat, v.last_row) AS beat,
        greatest(v.last_row, least(beat, v.last_row + INTERVAL 1 HOUR)) AS judged, v.latest AS latest, v.badness AS badness,
        beat > now() - INTERVAL 3 MINUTE AS is_alive
    FROM rows_by_pod AS v LEFT JOIN beats AS b ON v.cluster = b.cluster AND v.pod = b.pod
        LEFT JOIN watched AS w ON v.cluster = w.cluster AND v.pod = w.pod
    WHERE judged > now() - toIntervalHour({hours:UInt32})
),
-- Verdicts of every pod that is alive count; of a pod that is gone, only if its verdict is the latest on the subject.
pods AS (
    SELECT *, judged = max(judged) OVER (PARTITION BY cluster, subject_kind, subject) OR is_alive AS speaks
    FROM by_pod
),
subjects AS (
    SELECT
        cluster, subject_kind, subject, base, max(judged) AS last_judged,
        argMax(latest, tuple(badness, judged)) AS worst, argMax(pod, tuple(badness, judged)) AS judged_by
    FROM pods WHERE speaks
    GROUP BY cluster, subject_kind, subject, base
)
SELECT
    cluster, subject_kind, subject, base, worst.1 AS status, worst.2 AS reason, worst.3 AS cause, worst.4 AS retention,
    worst.5 AS log_e, worst.6 AS log_threshold, worst.7 AS covered_by, last_judged, judged_by,
    worst.10 AS answered_by, worst.11 AS files, worst.12 AS files_known_by, worst.13 AS bad_pods, worst.14 AS scored_pods,
    worst.8 AS explanation, worst.9 AS action
FROM subjects
WHERE status != 'healthy'
ORDER BY status = 'degraded' DESC, subject_kind = 'base' DESC, subject
