-- How many production requests were served since the onset, per adapter and pod?
-- Ask it for the size of the damage, and for whom to tell.
-- subject = '': adapter or base, until it recovered if it has; all that are degraded now when empty
-- cluster = '': one cluster, or all when empty
WITH
    (SELECT if(count() = 0, toDateTime('2100-01-01 00:00:00', 'UTC'), min(since)) FROM rolled_up WHERE name = 'requests_hourly') AS rolled_up_since,
    toStartOfHour(now('UTC')) - INTERVAL 1 DAY AS last_day,
-- Looked for first: few subjects ever alarmed, and of the others nothing has to be worked out.
ever_alarmed AS (
    SELECT DISTINCT cluster, subject_kind, subject FROM verdicts
    WHERE reason = 'alarm' AND ({subject:String} = '' OR subject = {subject:String}) AND ({cluster:String} = '' OR cluster = {cluster:String})
),
of_incidents AS (
    SELECT
        cluster, subject_kind, subject, minIf(onset, concerned) AS began, max(bad_at) AS last_bad,
        arrayDistinct(groupArrayArrayIf(alarm.5, concerned)) AS concerns, maxIf(is_open, speaks) AS still_open
    FROM incident_pods(subject = {subject:String}, cluster = {cluster:String})
    WHERE (cluster, subject_kind, subject) IN ever_alarmed
    GROUP BY cluster, subject_kind, subject
    HAVING countIf(concerned) > 0 AND ({subject:String} != '' OR still_open)
),
-- Worked out once: a WITH table is computed at each place that names it, a value once.
(SELECT groupArray(tuple(cluster, subject_kind, subject, began, last_bad, concerns, still_open)) FROM of_incidents) AS rows_of_incidents,
onsets AS (
    SELECT
        arrayJoin(rows_of_incidents) AS i, i.1 AS cluster, i.2 AS subject_kind, i.3 AS subject, i.4 AS began, i.5 AS last_bad,
        i.6 AS concerns, i.7 AS still_open
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
        WHERE (cluster, subject_kind, subject) IN ever_alarmed
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
(SELECT groupArray(tuple(cluster, adapter, onset, toDateTime(until, 'UTC'))) FROM adapters) AS spans,
(SELECT arrayMin(span -> toStartOfMinute(span.3), spans)) AS first_minute,
concerned AS (SELECT arrayJoin(spans) AS span, span.1 AS cluster, span.2 AS adapter),
-- Counts are by the minute, the onset's own minute included. Those of the last day are read from their table, with FINAL: an
-- offset range that was inserted twice must count once. PREWHERE, on a column of the table's key, is looked at before FINAL
-- merges anything. What is older comes from the roll-up by hours, where the token of the insert alone sees to that; and from the table again where it is older than the roll-up (rolled_up).
minutes AS (
    SELECT cluster, adapter, pod, topic, partition, minute, consumer_group, n
    FROM request_counts FINAL
    PREWHERE minute >= first_minute AND (minute < rolled_up_since OR minute >= last_day)
    WHERE (cluster, adapter) IN (SELECT cluster, adapter FROM concerned)
    UNION ALL
    SELECT cluster, adapter, pod, topic, partition, hour + toIntervalMinute(minute_of_hour) AS minute, consumer_group, n
    FROM requests_hourly ARRAY JOIN mapKeys(by_minute) AS minute_of_hour, mapValues(by_minute) AS n
    WHERE (cluster, adapter) IN (SELECT cluster, adapter FROM concerned) AND hour >= toStartOfHour(first_minute)
        AND hour >= rolled_up_since AND hour < last_day
),
-- A consumer group counts what it reads for itself, so a request that two groups read is in the counts of both: of each
-- partition and minute, those of the group that has most of them, one that is behind has fewer. What was counted before
-- groups were stored is in no group's count again.
counts AS (
    SELECT cluster, adapter, pod, onset, minute, sumIf(of_group, consumer_group = '') + maxIf(of_group, consumer_group != '') AS n
    FROM (
        SELECT
            cluster, adapter, pod, topic, partition, minute, consumer_group, sum(m.n) AS of_group,
            -- One at most; not a join, which would take longer than all that is added up.
            arrayJoin(arrayFilter(
                span -> span.1 = cluster AND span.2 = adapter AND minute >= toStartOfMinute(span.3) AND minute <= span.4, spans
            )).3 AS onset
        FROM minutes AS m
        GROUP BY cluster, adapter, pod, onset, topic, partition, minute, consumer_group
    )
    GROUP BY cluster, adapter, pod, onset, topic, partition, minute
)
SELECT cluster, adapter, pod, onset, sum(n) AS requests, max(minute) AS last_minute
FROM counts
GROUP BY cluster, adapter, pod, onset
ORDER BY requests DESC
