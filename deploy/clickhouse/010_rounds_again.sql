-- What stored rounds lacked to be judged again as they were (gapwatch rejudge): who and what came in which order, how much
-- belongs to a round, and all that a response's score says. Rows from before have 0, '' and 1970 in these columns.

ALTER TABLE rounds
    ADD COLUMN IF NOT EXISTS members UInt16 COMMENT 'adapters of the base''s round; 0 in rows from before this column',
    ADD COLUMN IF NOT EXISTS place UInt16 COMMENT 'of this adapter among them, from 0',
    ADD COLUMN IF NOT EXISTS raw_canaries UInt32 COMMENT 'rows of comparisons by the route raw',
    ADD COLUMN IF NOT EXISTS warm_canaries UInt32 COMMENT 'likewise by the route warm';

ALTER TABLE comparisons
    ADD COLUMN IF NOT EXISTS place UInt16 COMMENT 'among the canaries of its round and route, from 0',
    ADD COLUMN IF NOT EXISTS replica LowCardinality(String) COMMENT 'which one answered, empty where there is one';

ALTER TABLE traffic_scores
    ADD COLUMN IF NOT EXISTS agent LowCardinality(String) COMMENT 'the pod of the agent that judged it',
    ADD COLUMN IF NOT EXISTS judged_at DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)) COMMENT 'traffic_rounds.at of its round',
    ADD COLUMN IF NOT EXISTS place UInt32 COMMENT 'among the scores of its round, from 0',
    ADD COLUMN IF NOT EXISTS temperatures Array(Float32) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS temperature_log_lik Array(Float32) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS top_ps Array(Float32) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS top_p_log_lik Array(Float32) CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS ranks Array(Float32) CODEC(ZSTD(1)) COMMENT 'of each token in the accepted law';

-- One row for each round of responses, also of those in which none came: silence is a verdict too.
CREATE TABLE IF NOT EXISTS traffic_rounds (
    cluster LowCardinality(String),
    pod LowCardinality(String),
    base LowCardinality(String),
    round UInt32,
    at DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    adapters Array(LowCardinality(String)),
    scores UInt32,
    identities Map(LowCardinality(String), Array(String)) CODEC(ZSTD(1)) COMMENT 'golden and live hash of base, adapter, tokenizer and template, then the scheme of the hashes'
) ENGINE = MergeTree
PARTITION BY toYYYYMM(at)
ORDER BY (cluster, base, at)
TTL toDateTime(at) + INTERVAL 60 DAY
SETTINGS non_replicated_deduplication_window = 10000;
