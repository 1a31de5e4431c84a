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
