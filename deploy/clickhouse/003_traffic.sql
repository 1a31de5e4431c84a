-- What came out of Kafka. pod is the pod that served the request. Two nets against counting twice: the insert's token
-- (same offset range, same token), and ReplacingMergeTree keyed by the offsets (read these tables with FINAL).

CREATE TABLE IF NOT EXISTS interactions (
    cluster LowCardinality(String),
    adapter LowCardinality(String),
    base LowCardinality(String),
    pod LowCardinality(String),
    at DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    request_id String CODEC(ZSTD(1)),
    topic LowCardinality(String),
    partition UInt32,
    offset UInt64 CODEC(DoubleDelta, ZSTD(1)),
    prompt_hash FixedString(64),
    output_hash FixedString(64),
    prompt_chars UInt32,
    output_chars UInt32,
    prompt_tokens UInt32,
    output_tokens UInt32,
    finish_reason LowCardinality(String),
    sampling Map(LowCardinality(String), Float64),
    prompt String CODEC(ZSTD(1)) COMMENT 'empty unless store_text is set',
    output String CODEC(ZSTD(1)) COMMENT 'empty unless store_text is set'
) ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(at)
ORDER BY (cluster, adapter, at, topic, partition, offset)
TTL toDateTime(at) + INTERVAL 30 DAY
SETTINGS non_replicated_deduplication_window = 10000;

-- Not partitioned: one insert is then one part, all of it there or nothing, and agent/store.py may continue from last_offset + 1.
CREATE TABLE IF NOT EXISTS request_counts (
    cluster LowCardinality(String),
    topic LowCardinality(String),
    partition UInt32,
    first_offset UInt64 CODEC(DoubleDelta, ZSTD(1)),
    last_offset UInt64 CODEC(DoubleDelta, ZSTD(1)),
    adapter LowCardinality(String),
    pod LowCardinality(String),
    minute DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)),
    n UInt64
) ENGINE = ReplacingMergeTree
ORDER BY (cluster, adapter, minute, pod, topic, partition, first_offset, last_offset)
TTL minute + INTERVAL 400 DAY
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS batches (
    cluster LowCardinality(String),
    topic LowCardinality(String),
    partition UInt32,
    first_offset UInt64,
    next_offset UInt64,
    records UInt64,
    interactions UInt64,
    aside UInt64,
    at DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    pod LowCardinality(String) COMMENT 'the agent that read them'
) ENGINE = ReplacingMergeTree
ORDER BY (cluster, topic, partition, first_offset, next_offset)
TTL toDateTime(at) + INTERVAL 400 DAY
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS aside (
    cluster LowCardinality(String),
    topic LowCardinality(String),
    partition UInt32,
    offset UInt64,
    reason LowCardinality(String),
    detail String CODEC(ZSTD(1)) COMMENT 'names a field or a position, never production text',
    at DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1))
) ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(at)
ORDER BY (cluster, topic, partition, offset)
TTL toDateTime(at) + INTERVAL 30 DAY
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS embeddings (
    cluster LowCardinality(String),
    adapter LowCardinality(String),
    side LowCardinality(String),
    request_id String CODEC(ZSTD(1)),
    at DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    vector Array(Float32) CODEC(ZSTD(1))
) ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(at)
ORDER BY (cluster, adapter, side, at, request_id)
TTL toDateTime(at) + INTERVAL 30 DAY
SETTINGS non_replicated_deduplication_window = 10000;
