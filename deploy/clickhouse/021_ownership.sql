-- Evidence moves by base: a base may go to another pod while its former one goes on with others. One row for each pod and
-- base; rows from before have base '' and hold all that their pod judged.

ALTER TABLE states
    ADD COLUMN IF NOT EXISTS base LowCardinality(String) COMMENT 'whose evidence it is, with its adapters; empty in rows from before this column',
    MODIFY ORDER BY (cluster, consumer_group, pod, base);

ALTER TABLE state_claims
    ADD COLUMN IF NOT EXISTS base LowCardinality(String) COMMENT 'a pod may claim one base of a row that holds several',
    MODIFY ORDER BY (cluster, consumer_group, pod, saved_at, at, claimed_by, base);

-- How far each group has counted each partition: a few rows, however many counts there are. Filled by the inserts that the
-- counts come with; what was stored before this table is taken over once. Several maxima of one key are as good as one.
CREATE TABLE IF NOT EXISTS counted (
    cluster LowCardinality(String),
    consumer_group LowCardinality(String),
    topic LowCardinality(String),
    partition UInt32,
    adapter LowCardinality(String) COMMENT 'empty of whole batches',
    next SimpleAggregateFunction(max, UInt64) COMMENT 'the offset after the last one that is in a count, or in a batch',
    at SimpleAggregateFunction(max, DateTime('UTC')) COMMENT 'when it was stored'
) ENGINE = AggregatingMergeTree
ORDER BY (cluster, consumer_group, topic, partition, adapter)
TTL at + INTERVAL 400 DAY;

CREATE MATERIALIZED VIEW IF NOT EXISTS counted_by_counts TO counted AS
SELECT cluster, consumer_group, topic, partition, adapter, max(last_offset + 1) AS next, max(now()) AS at
FROM request_counts GROUP BY cluster, consumer_group, topic, partition, adapter;

CREATE MATERIALIZED VIEW IF NOT EXISTS counted_by_batches TO counted AS
SELECT cluster, consumer_group, topic, partition, '' AS adapter, max(next_offset) AS next, max(now()) AS at
FROM batches GROUP BY cluster, consumer_group, topic, partition;

INSERT INTO counted SELECT cluster, consumer_group, topic, partition, adapter, max(last_offset + 1), max(now())
FROM request_counts GROUP BY cluster, consumer_group, topic, partition, adapter;

INSERT INTO counted SELECT cluster, consumer_group, topic, partition, '', max(next_offset), max(now())
FROM batches GROUP BY cluster, consumer_group, topic, partition;

-- What each pod judges. A base may go to another pod, and an adapter out of the configuration, while the pod lives on: its
-- last word on them then holds no incident open.
CREATE TABLE IF NOT EXISTS watching (
    cluster LowCardinality(String),
    pod String,
    at DateTime64(3, 'UTC'),
    subjects Array(String) COMMENT 'adapter/NAME, base/NAME'
) ENGINE = ReplacingMergeTree(at)
ORDER BY (cluster, pod)
TTL toDateTime(at) + INTERVAL 7 DAY;

-- As in 019, and signs of life are of what a pod still judges.
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
watched AS (SELECT cluster, pod, argMax(w.subjects, w.at) AS subjects FROM watching AS w GROUP BY cluster, pod),
by_pod AS (
    SELECT
        v.cluster AS cluster, v.subject_kind AS subject_kind, v.subject AS subject, v.pod AS pod,
        if(w.pod = '' OR has(w.subjects, concat(v.subject_kind, '/', v.subject)), b.beat, v.last_row) AS beat,
        greatest(v.last_row, least(beat, v.last_row + INTERVAL 1 HOUR)) AS judged, v.latest AS latest, v.is_open AS is_open,
        v.alarmed AS alarmed, v.alarm_at AS alarm_at, if(v.latest = 'degraded', judged, v.last_bad_row) AS bad_at,
        v.last_cause AS last_cause, v.alarm AS alarm, v.onset AS onset, beat > now() - INTERVAL 3 MINUTE AS is_alive
    FROM rows_by_pod AS v LEFT JOIN beats AS b ON v.cluster = b.cluster AND v.pod = b.pod
        LEFT JOIN watched AS w ON v.cluster = w.cluster AND v.pod = w.pod
)
SELECT
    *, alarmed AND bad_at >= argMaxIf(onset, alarm_at, alarmed) OVER subjects AS concerned,
    judged = max(judged) OVER subjects OR is_alive AS speaks
FROM by_pod
WINDOW subjects AS (PARTITION BY cluster, subject_kind, subject);
