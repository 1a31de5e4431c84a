-- What sampled responses say about who wrote them: numbers of each response, never its text.

CREATE TABLE IF NOT EXISTS traffic_scores (
    cluster LowCardinality(String),
    base LowCardinality(String),
    adapter LowCardinality(String),
    pod LowCardinality(String) COMMENT 'the pod that served the request',
    round UInt32,
    at DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    request_id String CODEC(ZSTD(1)),
    scored LowCardinality(String) COMMENT 'sampled, greedy, not_scored',
    tokens UInt32,
    temperature Float64 CODEC(Gorilla, ZSTD(1)),
    top_p Float64 CODEC(Gorilla, ZSTD(1)),
    against Float64 CODEC(Gorilla, ZSTD(1)) COMMENT 'nats of the whole response against what was accepted, all alternatives weighed',
    log_l Map(LowCardinality(String), Float64) COMMENT 'nats, by alternative',
    log_sampler Map(LowCardinality(String), Float64) COMMENT 'nats, by other sampler',
    path Array(Float32) COMMENT 'share of the way from base to adapter',
    path_log_lik Array(Float32) CODEC(ZSTD(1)),
    detail String CODEC(ZSTD(1)) COMMENT 'why it was not scored'
) ENGINE = MergeTree
PARTITION BY toYYYYMM(at)
ORDER BY (cluster, adapter, at, request_id)
TTL toDateTime(at) + INTERVAL 60 DAY
SETTINGS non_replicated_deduplication_window = 10000;
