-- How many production requests were served since the onset, per adapter and pod?
-- Ask it for the size of the damage, and for whom to tell.
-- subject = '': adapter or base, until it recovered if it has; all that are degraded now when empty
-- cluster = '': one cluster, or all when empty
WITH onsets AS (
    SELECT
        cluster, subject_kind, subject, minIf(onset, concerned) AS began, max(bad_at) AS last_bad,
        arrayDistinct(groupArrayArrayIf(alarm.5, concerned)) AS concerns, maxIf(is_open, speaks) AS still_open
    FROM incident_pods(subject = {subject:String}, cluster = {cluster:String})
    GROUP BY cluster, subject_kind, subject
    HAVING countIf(concerned) > 0 AND ({subject:String} != '' OR still_open)
),
-- The first time after it at which a pod says healthy: by a row, or by one before that still holds. One row holds until the
-- pod's next one, and at most an hour: verdicts are stored on change and once an hour.
ends AS (
    SELECT v.cluster AS cluster, v.subject_kind AS subject_kind, v.subject AS subject, min(greatest(v.at, o.last_bad)) AS ended
    FROM (
        SELECT
            cluster, subject_kind, subject, status, at,
            least(leadInFrame(at, 1, at + INTERVAL 1 HOUR) OVER w, at + INTERVAL 1 HOUR) AS holds_until
        FROM verdicts
        WHERE (cluster, subject_kind, subject) IN (SELECT cluster, subject_kind, subject FROM onsets)
        WINDOW w AS (
            PARTITION BY cluster, subject_kind, subject, pod ORDER BY at
            ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING
        )
    ) AS v INNER JOIN onsets AS o
        ON v.cluster = o.cluster AND v.subject_kind = o.subject_kind AND v.subject = o.subject
    WHERE v.status = 'healthy' AND v.holds_until > o.last_bad
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
),
-- A consumer group counts what it reads for itself, so a request that two groups read is in the counts of both: of each
-- partition and minute, those of the group that has most of them, one that is behind has fewer. What was counted before
-- groups were stored is in no group's count again.
counts AS (
    SELECT cluster, adapter, pod, onset, minute, sumIf(of_group, consumer_group = '') + maxIf(of_group, consumer_group != '') AS n
    FROM (
        SELECT
            c.cluster AS cluster, c.adapter AS adapter, c.pod AS pod, a.onset AS onset, c.topic AS topic,
            c.partition AS partition, c.minute AS minute, c.consumer_group AS consumer_group, sum(c.n) AS of_group
        -- FINAL: an offset range that was inserted twice must count once.
        FROM request_counts AS c FINAL INNER JOIN adapters AS a ON c.cluster = a.cluster AND c.adapter = a.adapter
        -- Counts are by the minute, the onset's own minute included.
        WHERE c.minute >= toStartOfMinute(a.onset) AND c.minute <= a.until
        GROUP BY cluster, adapter, pod, onset, topic, partition, minute, consumer_group
    )
    GROUP BY cluster, adapter, pod, onset, topic, partition, minute
)
SELECT cluster, adapter, pod, onset, sum(n) AS requests, max(minute) AS last_minute
FROM counts
GROUP BY cluster, adapter, pod, onset
ORDER BY requests DESC
