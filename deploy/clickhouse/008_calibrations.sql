-- By which sampler tokens are drawn, as far as an adapter's recent responses tell: one row for each round that heard one.

CREATE TABLE IF NOT EXISTS calibrations (
    cluster LowCardinality(String),
    pod LowCardinality(String),
    base LowCardinality(String),
    adapter LowCardinality(String),
    round UInt32,
    at DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    log_e Float64 CODEC(Gorilla, ZSTD(1)) COMMENT 'nats against "as the requests ask"; it informs and never pages',
    leading LowCardinality(String) COMMENT 'the sampler that the tokens speak for most, empty where for none',
    tokens Float64 CODEC(Gorilla, ZSTD(1)) COMMENT 'behind the histogram, old ones half forgotten',
    temperature Float64 CODEC(Gorilla, ZSTD(1)) COMMENT 'most likely, all else as requested; nan where unknown',
    temperature_low Float64 CODEC(Gorilla, ZSTD(1)) COMMENT '95 % profile likelihood; nan where beyond the grid',
    temperature_high Float64 CODEC(Gorilla, ZSTD(1)),
    asked_temperature Array(Float64) COMMENT 'smallest and largest of recent requests',
    top_p Float64 CODEC(Gorilla, ZSTD(1)),
    top_p_low Float64 CODEC(Gorilla, ZSTD(1)),
    top_p_high Float64 CODEC(Gorilla, ZSTD(1)),
    asked_top_p Array(Float64),
    ranks Array(Float32) CODEC(ZSTD(1)) COMMENT 'share of tokens by their rank in the accepted law; even while all is well'
) ENGINE = MergeTree
PARTITION BY toYYYYMM(at)
ORDER BY (cluster, adapter, at)
TTL toDateTime(at) + INTERVAL 400 DAY
SETTINGS non_replicated_deduplication_window = 10000;
