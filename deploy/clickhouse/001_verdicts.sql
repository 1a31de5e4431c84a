-- What was decided, and what it rests on. Plain SQL for one node; agent/schema.py rewrites engines for replicated servers.
-- pod is the agent's pod in this file. No TTL on verdicts and notices: they are few, and they are the history of every incident.

CREATE TABLE IF NOT EXISTS verdicts (
    cluster LowCardinality(String),
    pod LowCardinality(String),
    subject_kind LowCardinality(String),
    subject LowCardinality(String),
    base LowCardinality(String),
    round UInt32,
    at DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    status LowCardinality(String),
    reason LowCardinality(String),
    cause LowCardinality(String),
    retention Float64 CODEC(Gorilla, ZSTD(1)),
    retention_low Float64 CODEC(Gorilla, ZSTD(1)),
    retention_high Float64 CODEC(Gorilla, ZSTD(1)),
    retention_n UInt32,
    scale Float64 CODEC(Gorilla, ZSTD(1)),
    distortion Float64 CODEC(Gorilla, ZSTD(1)),
    base_shift Float64 CODEC(Gorilla, ZSTD(1)),
    gap_ratio Float64 CODEC(Gorilla, ZSTD(1)),
    share_beyond Float64 CODEC(Gorilla, ZSTD(1)),
    log_e Float64 CODEC(Gorilla, ZSTD(1)),
    log_threshold Float64,
    onset_after Nullable(DateTime64(3, 'UTC')),
    onset_by Nullable(DateTime64(3, 'UTC')),
    covered_by LowCardinality(String),
    members Array(String),
    explanation String CODEC(ZSTD(1)),
    action String CODEC(ZSTD(1)),
    golden_base String CODEC(ZSTD(1)),
    live_base String CODEC(ZSTD(1)),
    golden_adapter String CODEC(ZSTD(1)),
    live_adapter String CODEC(ZSTD(1))
) ENGINE = MergeTree
PARTITION BY toYYYYMM(at)
ORDER BY (cluster, subject_kind, subject, at)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS evidence (
    cluster LowCardinality(String),
    pod LowCardinality(String),
    subject_kind LowCardinality(String),
    subject LowCardinality(String),
    detector LowCardinality(String),
    stream LowCardinality(String),
    round UInt32,
    at DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    log_e Float64 CODEC(Gorilla, ZSTD(1)),
    n UInt64,
    pages Bool
) ENGINE = MergeTree
PARTITION BY toYYYYMM(at)
ORDER BY (cluster, subject_kind, subject, detector, stream, at)
TTL toDateTime(at) + INTERVAL 400 DAY
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS notices (
    cluster LowCardinality(String),
    pod LowCardinality(String),
    at DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    kind LowCardinality(String),
    reason LowCardinality(String),
    dedup_key String,
    subject_kind LowCardinality(String),
    subject LowCardinality(String),
    base LowCardinality(String),
    round UInt32,
    cause LowCardinality(String),
    summary String CODEC(ZSTD(1)),
    details Map(LowCardinality(String), String)
) ENGINE = MergeTree
PARTITION BY toYYYYMM(at)
ORDER BY (cluster, subject_kind, subject, at)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS flips (
    cluster LowCardinality(String),
    pod LowCardinality(String),
    base LowCardinality(String),
    adapter LowCardinality(String),
    canary LowCardinality(String),
    round UInt32,
    at DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    prompt String CODEC(ZSTD(1)),
    golden_text String CODEC(ZSTD(1)),
    present_text String CODEC(ZSTD(1)),
    retention Float64
) ENGINE = MergeTree
PARTITION BY toYYYYMM(at)
ORDER BY (cluster, adapter, at, canary)
TTL toDateTime(at) + INTERVAL 400 DAY
SETTINGS non_replicated_deduplication_window = 10000;
