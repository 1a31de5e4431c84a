-- What was measured: one row per adapter and round, and one per canary and round with the log-probabilities themselves,
-- so that stored rounds can be replayed through other detectors. NaN means "not measured".

CREATE TABLE IF NOT EXISTS rounds (
    cluster LowCardinality(String),
    pod LowCardinality(String),
    base LowCardinality(String),
    adapter LowCardinality(String),
    round UInt32,
    at DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    blocked LowCardinality(String) COMMENT 'why nothing was measured, empty where something was',
    detail String CODEC(ZSTD(1)),
    facts Array(String),
    canaries UInt32,
    draws UInt32,
    retention Float64 CODEC(Gorilla, ZSTD(1)) COMMENT 'mean over the held-out canaries',
    retention_sd Float64 CODEC(Gorilla, ZSTD(1)),
    retention_n UInt32,
    scale Float64 CODEC(Gorilla, ZSTD(1)),
    distortion Float64 CODEC(Gorilla, ZSTD(1)),
    base_shift Float64 CODEC(Gorilla, ZSTD(1)),
    gap_ratio Float64 CODEC(Gorilla, ZSTD(1)),
    top1_agreement Float64 CODEC(Gorilla, ZSTD(1)),
    kl_golden_served Float64 CODEC(Gorilla, ZSTD(1)) COMMENT 'nats per token',
    kl_served_base Float64 CODEC(Gorilla, ZSTD(1)) COMMENT 'nats per token',
    golden_base String CODEC(ZSTD(1)),
    live_base String CODEC(ZSTD(1)),
    golden_adapter String CODEC(ZSTD(1)),
    live_adapter String CODEC(ZSTD(1)),
    tokens_scored Float64 COMMENT 'this adapter''s share of the base round, by its own positions; shares add up to the round',
    tokens_processed Float64,
    duration_s Float64
) ENGINE = MergeTree
PARTITION BY toYYYYMM(at)
ORDER BY (cluster, base, adapter, at)
TTL toDateTime(at) + INTERVAL 400 DAY
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS comparisons (
    cluster LowCardinality(String),
    pod LowCardinality(String),
    base LowCardinality(String),
    adapter LowCardinality(String),
    canary LowCardinality(String),
    golden LowCardinality(String) COMMENT 'hash of the golden record: kept tokens and reference points are there',
    half LowCardinality(String),
    round UInt32,
    at DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    draws UInt32,
    finite Bool,
    retention Float64 CODEC(Gorilla, ZSTD(1)),
    distortion Float64 CODEC(Gorilla, ZSTD(1)),
    base_shift Float64 CODEC(Gorilla, ZSTD(1)),
    frozen_retention Float64 CODEC(Gorilla, ZSTD(1)),
    frozen_distortion Float64 CODEC(Gorilla, ZSTD(1)),
    scale Float64 CODEC(Gorilla, ZSTD(1)),
    scale_misfit Float64 CODEC(Gorilla, ZSTD(1)),
    frozen_scale Float64 CODEC(Gorilla, ZSTD(1)),
    kl_golden_served Float64 CODEC(Gorilla, ZSTD(1)),
    kl_served_base Float64 CODEC(Gorilla, ZSTD(1)),
    gap_ratio Float64 CODEC(Gorilla, ZSTD(1)),
    top1_agreement Float64 CODEC(Gorilla, ZSTD(1)),
    positions UInt32 COMMENT 'T; the arrays below are (T, kept) in row order, then (T,)',
    kept UInt32 COMMENT 'K',
    served_log_probs Array(Float32) CODEC(ZSTD(3)),
    served_rest Array(Float32) CODEC(ZSTD(3)),
    served_top1 Array(Int32) CODEC(ZSTD(3)),
    live_base_log_probs Array(Float32) CODEC(ZSTD(3)),
    live_base_rest Array(Float32) CODEC(ZSTD(3)),
    live_base_top1 Array(Int32) CODEC(ZSTD(3))
) ENGINE = MergeTree
PARTITION BY toYYYYMM(at)
ORDER BY (cluster, base, adapter, canary, at)
TTL toDateTime(at) + INTERVAL 60 DAY
SETTINGS non_replicated_deduplication_window = 10000;
