-- The evidence of each pod, so that one that starts without a state of its own goes on from one that is gone: a Deployment's
-- disk ends with its pod. One row a pod, replaced every few minutes; who goes on from which is in state_claims.

CREATE TABLE IF NOT EXISTS states (
    cluster LowCardinality(String),
    consumer_group LowCardinality(String),
    pod String,
    at DateTime64(3, 'UTC') COMMENT 'when it was saved: by the clock alone, never for what it holds',
    version UInt16 COMMENT 'of the layout; an agent goes on from those alone that it can read',
    subjects Array(String) COMMENT 'what it was judging: adapter/NAME, base/NAME',
    closed Bool COMMENT 'the last act of its process: nobody has to wait for a heartbeat that does not come',
    state String CODEC(ZSTD(3)) COMMENT 'JSON, without what only informs and is large'
) ENGINE = ReplacingMergeTree(at)
ORDER BY (cluster, consumer_group, pod)
TTL toDateTime(at) + INTERVAL 7 DAY
SETTINGS non_replicated_deduplication_window = 1000;

-- The earliest claim of one state wins, by the server's clock; of one moment the smaller name.
CREATE TABLE IF NOT EXISTS state_claims (
    cluster LowCardinality(String),
    consumer_group LowCardinality(String),
    pod String COMMENT 'whose state is claimed',
    saved_at DateTime64(3, 'UTC') COMMENT 'states.at: a later state of the same pod is another one',
    claimed_by String,
    at DateTime64(6, 'UTC') DEFAULT now64(6)
) ENGINE = MergeTree
ORDER BY (cluster, consumer_group, pod, saved_at, at, claimed_by)
TTL toDateTime(at) + INTERVAL 8 DAY
SETTINGS non_replicated_deduplication_window = 1000;
