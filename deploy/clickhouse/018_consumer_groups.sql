-- Two groups that read one topic count each for itself: what was counted, rejected and read carries the consumer group.
-- Rows from before have '': which group counted them is not known (agent/store/client.py, counted_upto).

ALTER TABLE request_counts
    ADD COLUMN IF NOT EXISTS consumer_group LowCardinality(String) COMMENT 'of Kafka, by which the agent read; empty where it read without one, and in rows from before this column',
    MODIFY ORDER BY (cluster, adapter, minute, pod, topic, partition, first_offset, last_offset, consumer_group);

ALTER TABLE batches
    ADD COLUMN IF NOT EXISTS consumer_group LowCardinality(String),
    MODIFY ORDER BY (cluster, topic, partition, first_offset, next_offset, consumer_group);

ALTER TABLE aside
    ADD COLUMN IF NOT EXISTS consumer_group LowCardinality(String) COMMENT 'whose agent rejected it: an adapter that one group does not know another one may watch',
    MODIFY ORDER BY (cluster, topic, partition, offset, number, consumer_group);
