-- What the agent keeps of itself: signs of life and accepted golden records. (Its evidence lies in its state file.)

CREATE TABLE IF NOT EXISTS heartbeats (
    cluster LowCardinality(String),
    pod LowCardinality(String),
    at DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    started_at DateTime64(3, 'UTC'),
    rounds UInt64,
    records UInt64
) ENGINE = MergeTree
PARTITION BY toYYYYMM(at)
ORDER BY (cluster, pod, at)
TTL toDateTime(at) + INTERVAL 30 DAY
SETTINGS non_replicated_deduplication_window = 10000;

-- Golden records are small, immutable and the yardstick of everything else: no TTL.
CREATE TABLE IF NOT EXISTS goldens (
    cluster LowCardinality(String),
    adapter LowCardinality(String),
    base LowCardinality(String),
    hash String,
    previous String,
    accepted_at DateTime64(3, 'UTC'),
    why String,
    bytes String CODEC(ZSTD(3))
) ENGINE = ReplacingMergeTree(accepted_at)
ORDER BY (cluster, adapter, hash)
SETTINGS non_replicated_deduplication_window = 1000;
