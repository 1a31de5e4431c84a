-- 001_verdicts.sql

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
-- 002_rounds.sql

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
-- 003_traffic.sql

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
-- 004_kept.sql

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
-- 005_canary_evidence.sql

ALTER TABLE verdicts
    ADD COLUMN IF NOT EXISTS over_rounds_low Float64 DEFAULT nan CODEC(Gorilla, ZSTD(1)) COMMENT 'retention, anytime-valid at 95 %, over all rounds since an incident last opened or ended' AFTER retention_n,
    ADD COLUMN IF NOT EXISTS over_rounds_high Float64 DEFAULT nan CODEC(Gorilla, ZSTD(1)) AFTER over_rounds_low,
    ADD COLUMN IF NOT EXISTS over_rounds_n UInt64 DEFAULT 0 COMMENT 'canaries behind it' AFTER over_rounds_high,
    ADD COLUMN IF NOT EXISTS onset_estimate Nullable(DateTime64(3, 'UTC')) COMMENT 'by the CUSUM twins of the detectors' AFTER onset_by;
ALTER TABLE comparisons
    ADD COLUMN IF NOT EXISTS route LowCardinality(String) DEFAULT 'present' COMMENT 'present: as rendered now; raw: from the accepted token ids; warm: on a cache that another adapter warmed' AFTER half,
    ADD COLUMN IF NOT EXISTS frozen_shift Float64 DEFAULT nan CODEC(Gorilla, ZSTD(1)) COMMENT 'from the golden adapter, in any direction, over its effect' AFTER frozen_scale,
    ADD COLUMN IF NOT EXISTS kl_served_golden Float64 DEFAULT nan CODEC(Gorilla, ZSTD(1)) COMMENT 'nats per token' AFTER kl_golden_served,
    ADD COLUMN IF NOT EXISTS kl_base_served Float64 DEFAULT nan CODEC(Gorilla, ZSTD(1)) COMMENT 'nats per token' AFTER kl_served_base,
    ADD COLUMN IF NOT EXISTS band_retention Map(LowCardinality(String), Float64) COMMENT 'first, 2-16, 17-128, beyond_128: scored positions from 1' AFTER top1_agreement,
    ADD COLUMN IF NOT EXISTS band_distortion Map(LowCardinality(String), Float64) AFTER band_retention;
ALTER TABLE flips
    ADD COLUMN IF NOT EXISTS golden_passes Nullable(Bool) COMMENT 'the canary''s own check; NULL where it has none' AFTER present_text,
    ADD COLUMN IF NOT EXISTS present_passes Nullable(Bool) AFTER golden_passes;
-- 006_traffic_evidence.sql

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
-- 007_incident_pods.sql

CREATE VIEW IF NOT EXISTS incident_pods AS
WITH by_pod AS (
    SELECT
        cluster, subject_kind, subject, pod, max(at) AS judged, argMax(status, at) AS latest,
        -- Not knowing ends no incident.
        argMaxIf(status, at, status != 'unmonitorable') = 'degraded' AS is_open,
        countIf(reason = 'alarm') > 0 AS alarmed, maxIf(at, reason = 'alarm') AS alarm_at, maxIf(at, status = 'degraded') AS bad_at,
        argMaxIf(cause, at, status = 'degraded') AS last_cause,
        -- Inside a tuple, because argMax would skip a NULL and answer with an older alarm's.
        argMaxIf(tuple(onset_after, onset_by, live_base, live_adapter, members), at, reason = 'alarm') AS alarm,
        coalesce(alarm.1, alarm.2, alarm_at) AS onset
    FROM verdicts
    WHERE ({subject:String} = '' OR subject = {subject:String}) AND ({cluster:String} = '' OR cluster = {cluster:String})
    GROUP BY cluster, subject_kind, subject, pod
)
SELECT
    *, alarmed AND bad_at >= argMaxIf(onset, alarm_at, alarmed) OVER subjects AS concerned,
    judged = max(judged) OVER subjects
    OR (cluster, pod) IN (SELECT cluster, pod FROM heartbeats WHERE at > now() - INTERVAL 3 MINUTE) AS speaks
FROM by_pod
WINDOW subjects AS (PARTITION BY cluster, subject_kind, subject);
-- 008_calibrations.sql

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
-- 009_requests_of_a_record.sql

ALTER TABLE interactions
    ADD COLUMN IF NOT EXISTS number UInt32 COMMENT 'its place among the requests of its record',
    MODIFY ORDER BY (cluster, adapter, at, topic, partition, offset, number);
ALTER TABLE aside
    ADD COLUMN IF NOT EXISTS number UInt32 COMMENT 'its place among what was set aside of its record',
    MODIFY ORDER BY (cluster, topic, partition, offset, number);
-- 010_rounds_again.sql

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
-- 011_identity.sql

ALTER TABLE verdicts
    ADD COLUMN IF NOT EXISTS golden_tokenizer String COMMENT 'hash of the files' CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS live_tokenizer String CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS golden_template String COMMENT 'hash of the chat template' CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS live_template String CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS hash_scheme UInt8 DEFAULT 1 COMMENT 'by which all hashes of the row were made';
ALTER TABLE rounds
    ADD COLUMN IF NOT EXISTS golden_tokenizer String COMMENT 'hash of the files' CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS live_tokenizer String CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS golden_template String COMMENT 'hash of the chat template' CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS live_template String CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS hash_scheme UInt8 DEFAULT 1 COMMENT 'by which all hashes of the row were made';
-- 012_mass_outside.sql

ALTER TABLE comparisons
    ADD COLUMN IF NOT EXISTS mass_outside Float64 DEFAULT nan CODEC(Gorilla, ZSTD(1)) COMMENT 'mean over positions of the served probability outside the kept tokens, beyond what both golden sides had there' AFTER frozen_shift;
-- 013_ranks_at_the_edges.sql

ALTER TABLE traffic_scores
    ADD COLUMN IF NOT EXISTS ranks_weaker Array(Float32) CODEC(ZSTD(1)) COMMENT 'tokens expected in each equal part of [0, 1] of the golden rank, at the lower edge of the tolerance' AFTER ranks,
    ADD COLUMN IF NOT EXISTS ranks_stronger Array(Float32) CODEC(ZSTD(1)) COMMENT 'the same at the upper edge' AFTER ranks_weaker,
    ADD COLUMN IF NOT EXISTS rank_toll Float64 DEFAULT 0 CODEC(Gorilla, ZSTD(1)) COMMENT 'nats taken off an e-value that is made of the ranks' AFTER ranks_stronger;
-- 014_weight_grids.sql

ALTER TABLE rounds
    ADD COLUMN IF NOT EXISTS golden_grid LowCardinality(String) COMMENT 'bits, groups and levels in words; none where it is not quantised, empty where unknown',
    ADD COLUMN IF NOT EXISTS live_grid LowCardinality(String);
-- 015_tolerated_change.sql

ALTER TABLE verdicts
    ADD COLUMN IF NOT EXISTS tolerated_change String CODEC(ZSTD(3)) COMMENT 'how a healthy adapter differs from what was accepted by more than its noise, in words; empty where it does not' AFTER explanation;
ALTER TABLE rounds
    ADD COLUMN IF NOT EXISTS mass_outside Float64 DEFAULT nan CODEC(Gorilla, ZSTD(1)) COMMENT 'mean over canaries of the served probability outside the kept tokens, beyond what both golden sides had there' AFTER kl_served_base;
-- 016_onset_interval.sql

ALTER TABLE verdicts
    ADD COLUMN IF NOT EXISTS onset_earliest Nullable(DateTime64(3, 'UTC')) COMMENT 'the fault began after it, with 95 % confidence; NULL beside onset_latest: or earlier' AFTER onset_estimate,
    ADD COLUMN IF NOT EXISTS onset_latest Nullable(DateTime64(3, 'UTC')) COMMENT 'and by this time; NULL where there is no such interval' AFTER onset_earliest;
-- 017_fleet_notices.sql

ALTER TABLE notices
    ADD COLUMN IF NOT EXISTS change String CODEC(ZSTD(1)) COMMENT 'of a change event: the name by which the fleet knows that it was sent; empty for other notices and before this column' AFTER cause,
    ADD COLUMN IF NOT EXISTS share_of LowCardinality(String) COMMENT 'what the verdict rests on: draws of canaries, scores of a base, or sampled responses; empty before this column' AFTER change;
ALTER TABLE heartbeats
    ADD COLUMN IF NOT EXISTS unsent Int64 DEFAULT -1 COMMENT 'notices that were still to be sent; -1 before this column';
-- 018_consumer_groups.sql

ALTER TABLE request_counts
    ADD COLUMN IF NOT EXISTS consumer_group LowCardinality(String) COMMENT 'of Kafka, by which the agent read; empty where it read without one, and in rows from before this column',
    MODIFY ORDER BY (cluster, adapter, minute, pod, topic, partition, first_offset, last_offset, consumer_group);
ALTER TABLE batches
    ADD COLUMN IF NOT EXISTS consumer_group LowCardinality(String),
    MODIFY ORDER BY (cluster, topic, partition, first_offset, next_offset, consumer_group);
ALTER TABLE aside
    ADD COLUMN IF NOT EXISTS consumer_group LowCardinality(String) COMMENT 'whose agent rejected it: an adapter that one group does not know another one may watch',
    MODIFY ORDER BY (cluster, topic, partition, offset, number, consumer_group);
-- 019_runs_of_verdicts.sql

CREATE OR REPLACE VIEW incident_pods AS
WITH rows_by_pod AS (
    SELECT
        cluster, subject_kind, subject, pod, max(at) AS last_row, argMax(status, at) AS latest,
        -- Not knowing ends no incident.
        argMaxIf(status, at, status != 'unmonitorable') = 'degraded' AS is_open,
        countIf(reason = 'alarm') > 0 AS alarmed, maxIf(at, reason = 'alarm') AS alarm_at, maxIf(at, status = 'degraded') AS last_bad_row,
        argMaxIf(cause, at, status = 'degraded') AS last_cause,
        -- Inside a tuple, because argMax would skip a NULL and answer with an older alarm's.
        argMaxIf(tuple(onset_after, onset_by, live_base, live_adapter, members), at, reason = 'alarm') AS alarm,
        coalesce(alarm.1, alarm.2, alarm_at) AS onset
    FROM verdicts
    WHERE ({subject:String} = '' OR subject = {subject:String}) AND ({cluster:String} = '' OR cluster = {cluster:String})
    GROUP BY cluster, subject_kind, subject, pod
),
beats AS (SELECT cluster, pod, max(at) AS beat FROM heartbeats GROUP BY cluster, pod),
by_pod AS (
    SELECT
        v.cluster AS cluster, v.subject_kind AS subject_kind, v.subject AS subject, v.pod AS pod,
        greatest(v.last_row, least(b.beat, v.last_row + INTERVAL 1 HOUR)) AS judged, v.latest AS latest, v.is_open AS is_open,
        v.alarmed AS alarmed, v.alarm_at AS alarm_at, if(v.latest = 'degraded', judged, v.last_bad_row) AS bad_at,
        v.last_cause AS last_cause, v.alarm AS alarm, v.onset AS onset, b.beat > now() - INTERVAL 3 MINUTE AS is_alive
    FROM rows_by_pod AS v LEFT JOIN beats AS b ON v.cluster = b.cluster AND v.pod = b.pod
)
SELECT
    *, alarmed AND bad_at >= argMaxIf(onset, alarm_at, alarmed) OVER subjects AS concerned,
    judged = max(judged) OVER subjects OR is_alive AS speaks
FROM by_pod
WINDOW subjects AS (PARTITION BY cluster, subject_kind, subject);
-- 020_states.sql

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
-- 021_ownership.sql

ALTER TABLE states
    ADD COLUMN IF NOT EXISTS base LowCardinality(String) COMMENT 'whose evidence it is, with its adapters; empty in rows from before this column',
    MODIFY ORDER BY (cluster, consumer_group, pod, base);
ALTER TABLE state_claims
    ADD COLUMN IF NOT EXISTS base LowCardinality(String) COMMENT 'a pod may claim one base of a row that holds several',
    MODIFY ORDER BY (cluster, consumer_group, pod, saved_at, at, claimed_by, base);
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
CREATE TABLE IF NOT EXISTS watching (
    cluster LowCardinality(String),
    pod String,
    at DateTime64(3, 'UTC'),
    subjects Array(String) COMMENT 'adapter/NAME, base/NAME'
) ENGINE = ReplacingMergeTree(at)
ORDER BY (cluster, pod)
TTL toDateTime(at) + INTERVAL 7 DAY;
CREATE OR REPLACE VIEW incident_pods AS
WITH rows_by_pod AS (
    SELECT
        cluster, subject_kind, subject, pod, max(at) AS last_row, argMax(status, at) AS latest,
        -- Not knowing ends no incident.
        argMaxIf(status, at, status != 'unmonitorable') = 'degraded' AS is_open,
        countIf(reason = 'alarm') > 0 AS alarmed, maxIf(at, reason = 'alarm') AS alarm_at, maxIf(at, status = 'degraded') AS last_bad_row,
        argMaxIf(cause, at, status = 'degraded') AS last_cause,
        -- Inside a tuple, because argMax would skip a NULL and answer with an older alarm's.
        argMaxIf(tuple(onset_after, onset_by, live_base, live_adapter, members), at, reason = 'alarm') AS alarm,
        coalesce(alarm.1, alarm.2, alarm_at) AS onset
    FROM verdicts
    WHERE ({subject:String} = '' OR subject = {subject:String}) AND ({cluster:String} = '' OR cluster = {cluster:String})
    GROUP BY cluster, subject_kind, subject, pod
),
beats AS (SELECT cluster, pod, max(at) AS beat FROM heartbeats GROUP BY cluster, pod),
watched AS (SELECT cluster, pod, argMax(w.subjects, w.at) AS subjects FROM watching AS w GROUP BY cluster, pod),
by_pod AS (
    SELECT
        v.cluster AS cluster, v.subject_kind AS subject_kind, v.subject AS subject, v.pod AS pod,
        if(w.pod = '' OR has(w.subjects, concat(v.subject_kind, '/', v.subject)), b.beat, v.last_row) AS beat,
        greatest(v.last_row, least(beat, v.last_row + INTERVAL 1 HOUR)) AS judged, v.latest AS latest, v.is_open AS is_open,
        v.alarmed AS alarmed, v.alarm_at AS alarm_at, if(v.latest = 'degraded', judged, v.last_bad_row) AS bad_at,
        v.last_cause AS last_cause, v.alarm AS alarm, v.onset AS onset, beat > now() - INTERVAL 3 MINUTE AS is_alive
    FROM rows_by_pod AS v LEFT JOIN beats AS b ON v.cluster = b.cluster AND v.pod = b.pod
        LEFT JOIN watched AS w ON v.cluster = w.cluster AND v.pod = w.pod
)
SELECT
    *, alarmed AND bad_at >= argMaxIf(onset, alarm_at, alarmed) OVER subjects AS concerned,
    judged = max(judged) OVER subjects OR is_alive AS speaks
FROM by_pod
WINDOW subjects AS (PARTITION BY cluster, subject_kind, subject);
-- 022_served_modes.sql

ALTER TABLE rounds
    ADD COLUMN IF NOT EXISTS cells UInt32 COMMENT 'rows of comparisons by modes',
    ADD COLUMN IF NOT EXISTS golden_engine String COMMENT 'what the engine said of itself when the record was made; empty where unknown' CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS live_engine String COMMENT 'kind, version and fingerprint of its settings' CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS golden_source String COMMENT 'from where the engine loaded the adapter, and on which base, by its own list' CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS live_source String CODEC(ZSTD(1));
ALTER TABLE comparisons
    ADD COLUMN IF NOT EXISTS mode_shift Float64 DEFAULT nan COMMENT 'of an answer in modes: how far it is from the scored one, as a share of the adapter''s effect' CODEC(Gorilla, ZSTD(1));
-- 023_files_beside_an_engine.sql

ALTER TABLE rounds
    ADD COLUMN IF NOT EXISTS answered_by LowCardinality(String) COMMENT 'files, or the serving engine and its route in words; empty in rows from before this column and where nothing was asked';
ALTER TABLE verdicts
    ADD COLUMN IF NOT EXISTS answered_by LowCardinality(String) COMMENT 'as of its round',
    ADD COLUMN IF NOT EXISTS files LowCardinality(String) COMMENT 'as_accepted, not_as_accepted, or empty where it is not known; of verdicts on what an engine answered',
    ADD COLUMN IF NOT EXISTS files_known_by LowCardinality(String) COMMENT 'witness: another pod replayed them; this_pod; hash: of the adapter alone, nobody replayed them',
    ADD COLUMN IF NOT EXISTS files_replayed_by LowCardinality(String) COMMENT 'the pod that did, empty for this one',
    ADD COLUMN IF NOT EXISTS files_replayed_at Nullable(DateTime64(3, 'UTC'));
CREATE TABLE IF NOT EXISTS files_replays (
    cluster LowCardinality(String),
    adapter LowCardinality(String),
    base LowCardinality(String),
    pod String COMMENT 'that replayed them',
    at DateTime64(3, 'UTC'),
    golden String COMMENT 'hash of the golden record that they were compared with',
    as_accepted Bool COMMENT 'no more draws beyond tolerance than a good round may have',
    share_beyond Float64 COMMENT 'of its draws',
    live_base String,
    live_adapter String,
    hash_scheme UInt8
) ENGINE = ReplacingMergeTree(at)
ORDER BY (cluster, adapter, base, pod)
TTL toDateTime(at) + INTERVAL 30 DAY;
-- 024_incidents_and_prompts.sql

ALTER TABLE interactions
    ADD COLUMN IF NOT EXISTS roles Array(LowCardinality(String)) COMMENT 'of the turns of prompt, in order; empty where the text is not stored, and in rows from before this column',
    ADD COLUMN IF NOT EXISTS turn_chars Array(UInt32) COMMENT 'characters of each turn, without its role';
ALTER TABLE goldens
    ADD COLUMN IF NOT EXISTS smallest_loss Float64 DEFAULT nan COMMENT 'the smallest share of its strength whose loss pages within 20 rounds; nan where none does, and in rows from before this column',
    ADD COLUMN IF NOT EXISTS draws UInt32 COMMENT 'of canaries that this loss takes to page',
    ADD COLUMN IF NOT EXISTS tolerance Float64 DEFAULT nan COMMENT 'share of its strength that each canary may be off',
    ADD COLUMN IF NOT EXISTS made_on String COMMENT 'the serving engine that answered at enrolment, in words; empty where the files did';
CREATE OR REPLACE VIEW incidents AS
WITH steps AS (
    SELECT
        cluster, dedup_key, subject_kind, subject, base, pod, at, kind, reason, cause, summary,
        -- A trigger under an open incident is one more notice of it.
        kind = 'trigger' AND lagInFrame(kind) OVER w != 'trigger' AS opens
    FROM notices
    WHERE kind IN ('trigger', 'resolve')
        AND ({subject:String} = '' OR subject = {subject:String}) AND ({cluster:String} = '' OR cluster = {cluster:String})
    WINDOW w AS (PARTITION BY cluster, dedup_key ORDER BY at, kind ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)
),
numbered AS (
    SELECT *, sum(opens) OVER (PARTITION BY cluster, dedup_key ORDER BY at, kind) AS number FROM steps
),
whole AS (
    SELECT
        cluster, dedup_key, number, any(subject_kind) AS subject_kind, any(subject) AS subject, any(base) AS base,
        min(at) AS opened_at, maxOrNullIf(at, kind = 'resolve') AS ended_at, argMaxIf(reason, at, kind = 'resolve') AS ended_by,
        argMin(reason, at) AS opened_by, argMaxIf(cause, at, kind = 'trigger' AND cause != 'none') AS cause,
        argMaxIf(summary, at, kind = 'trigger') AS summary, count() AS notices, groupUniqArray(pod) AS pods
    FROM numbered
    WHERE number > 0
    GROUP BY cluster, dedup_key, number
)
SELECT
    *,
    -- Within a day of the end of the one before.
    number > 1 AND opened_at < lagInFrame(ended_at) OVER former + INTERVAL 1 DAY AS reopened
FROM whole
WINDOW former AS (PARTITION BY cluster, dedup_key ORDER BY number ROWS BETWEEN 1 PRECEDING AND CURRENT ROW);
-- 025_watch.sql

ALTER TABLE heartbeats
    ADD COLUMN IF NOT EXISTS overdue Array(String) COMMENT 'bases of this pod of which no round was judged for several intervals; empty before this column';
-- 026_roll_ups.sql

CREATE TABLE IF NOT EXISTS rolled_up (
    name LowCardinality(String) COMMENT 'of the roll-up',
    since SimpleAggregateFunction(min, DateTime('UTC')) COMMENT 'the begin of its first whole hour or day; 1970 where its table was empty'
) ENGINE = AggregatingMergeTree
ORDER BY name;
CREATE TABLE IF NOT EXISTS rounds_hourly (
    cluster LowCardinality(String),
    base LowCardinality(String),
    adapter LowCardinality(String),
    pod LowCardinality(String),
    hour DateTime('UTC'),
    measured SimpleAggregateFunction(sum, UInt64),
    not_measured SimpleAggregateFunction(sum, UInt64),
    retention_sum SimpleAggregateFunction(sum, Float64) COMMENT 'over rounds with a finite one',
    retention_n SimpleAggregateFunction(sum, UInt64) COMMENT 'how many these are',
    retention_lowest SimpleAggregateFunction(min, Float64) COMMENT 'inf where there is none'
) ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(hour)
ORDER BY (cluster, base, adapter, pod, hour)
TTL hour + INTERVAL 800 DAY
SETTINGS non_replicated_deduplication_window = 10000;
CREATE MATERIALIZED VIEW IF NOT EXISTS rounds_hourly_by_rounds TO rounds_hourly AS
SELECT
    cluster, base, adapter, pod, toStartOfHour(at) AS hour, countIf(blocked = '') AS measured, countIf(blocked != '') AS not_measured,
    sumIf(retention, isFinite(retention)) AS retention_sum, countIf(isFinite(retention)) AS retention_n,
    min(if(isFinite(retention), retention, inf)) AS retention_lowest
FROM rounds GROUP BY cluster, base, adapter, pod, hour;
INSERT INTO rolled_up SELECT 'rounds_hourly', if((SELECT count() FROM rounds) = 0, toDateTime(0, 'UTC'), toStartOfHour(now('UTC')) + INTERVAL 2 HOUR);
CREATE TABLE IF NOT EXISTS rounds_daily (
    cluster LowCardinality(String),
    base LowCardinality(String),
    adapter LowCardinality(String),
    day Date,
    rounds SimpleAggregateFunction(sum, UInt64),
    blocked_rounds SimpleAggregateFunction(sum, UInt64),
    tokens_scored SimpleAggregateFunction(sum, Float64),
    tokens_processed SimpleAggregateFunction(sum, Float64),
    replay_s SimpleAggregateFunction(sum, Float64)
) ENGINE = AggregatingMergeTree
ORDER BY (cluster, base, adapter, day)
TTL day + INTERVAL 1600 DAY
SETTINGS non_replicated_deduplication_window = 10000;
CREATE MATERIALIZED VIEW IF NOT EXISTS rounds_daily_by_rounds TO rounds_daily AS
SELECT
    cluster, base, adapter, toDate(at) AS day, count() AS rounds, countIf(blocked != '') AS blocked_rounds,
    sum(r.tokens_scored) AS tokens_scored, sum(r.tokens_processed) AS tokens_processed, sum(duration_s) AS replay_s
FROM rounds AS r GROUP BY cluster, base, adapter, day;
INSERT INTO rolled_up SELECT 'rounds_daily', if((SELECT count() FROM rounds) = 0, toDateTime(0, 'UTC'), toStartOfDay(now('UTC') + INTERVAL 2 HOUR) + INTERVAL 1 DAY);
CREATE TABLE IF NOT EXISTS verdicts_daily (
    cluster LowCardinality(String),
    subject_kind LowCardinality(String),
    subject LowCardinality(String),
    day Date,
    first_at SimpleAggregateFunction(min, DateTime64(3, 'UTC')),
    last_at SimpleAggregateFunction(max, DateTime64(3, 'UTC'))
) ENGINE = AggregatingMergeTree
ORDER BY (cluster, subject_kind, subject, day)
TTL day + INTERVAL 1600 DAY
SETTINGS non_replicated_deduplication_window = 10000;
CREATE MATERIALIZED VIEW IF NOT EXISTS verdicts_daily_by_verdicts TO verdicts_daily AS
SELECT cluster, subject_kind, subject, toDate(at) AS day, min(at) AS first_at, max(at) AS last_at
FROM verdicts GROUP BY cluster, subject_kind, subject, day;
INSERT INTO rolled_up SELECT 'verdicts_daily', if((SELECT count() FROM verdicts) = 0, toDateTime(0, 'UTC'), toStartOfDay(now('UTC') + INTERVAL 2 HOUR) + INTERVAL 1 DAY);
CREATE TABLE IF NOT EXISTS requests_hourly (
    cluster LowCardinality(String),
    adapter LowCardinality(String),
    pod LowCardinality(String),
    topic LowCardinality(String),
    partition UInt32,
    consumer_group LowCardinality(String),
    hour DateTime('UTC'),
    by_minute SimpleAggregateFunction(sumMap, Map(UInt8, UInt64)) COMMENT 'minute of the hour -> requests'
) ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(hour)
ORDER BY (cluster, adapter, hour, pod, topic, partition, consumer_group)
TTL hour + INTERVAL 800 DAY
SETTINGS non_replicated_deduplication_window = 10000;
CREATE MATERIALIZED VIEW IF NOT EXISTS requests_hourly_by_counts TO requests_hourly AS
SELECT
    cluster, adapter, pod, topic, partition, consumer_group, toStartOfHour(minute) AS hour,
    sumMap(map(toUInt8(toMinute(minute)), n)) AS by_minute
FROM request_counts GROUP BY cluster, adapter, pod, topic, partition, consumer_group, hour;
INSERT INTO rolled_up SELECT 'requests_hourly', if((SELECT count() FROM request_counts) = 0, toDateTime(0, 'UTC'), toStartOfHour(now('UTC')) + INTERVAL 2 HOUR);
CREATE OR REPLACE VIEW rounds_by_hour AS
WITH
    (SELECT if(count() = 0, toDateTime('2100-01-01 00:00:00', 'UTC'), min(since)) FROM rolled_up WHERE name = 'rounds_hourly') AS whole_since,
    toStartOfHour(now('UTC')) - toIntervalHour({hours:UInt32} - 1) AS first_hour
SELECT
    cluster, base, adapter, pod, hour, sum(h.measured) AS measured, sum(h.not_measured) AS not_measured,
    sum(h.retention_sum) AS retention_sum, sum(h.retention_n) AS retention_n, min(h.retention_lowest) AS retention_lowest
FROM rounds_hourly AS h
WHERE hour >= whole_since AND hour >= first_hour
    AND ({subject:String} = '' OR adapter = {subject:String} OR base = {subject:String})
GROUP BY cluster, base, adapter, pod, hour
UNION ALL
SELECT
    cluster, base, adapter, pod, toStartOfHour(at) AS hour, countIf(blocked = ''), countIf(blocked != ''),
    sumIf(retention, isFinite(retention)), countIf(isFinite(retention)), min(if(isFinite(retention), retention, inf))
FROM rounds
WHERE at < whole_since AND at >= first_hour
    AND ({subject:String} = '' OR adapter = {subject:String} OR base = {subject:String})
GROUP BY cluster, base, adapter, pod, hour;
CREATE OR REPLACE VIEW rounds_by_day AS
WITH
    (SELECT if(count() = 0, toDateTime('2100-01-01 00:00:00', 'UTC'), min(since)) FROM rolled_up WHERE name = 'rounds_daily') AS whole_since,
    toDate(now('UTC')) - toIntervalDay({days:UInt32} - 1) AS first_day
SELECT
    cluster, base, adapter, day, sum(d.rounds) AS rounds, sum(d.blocked_rounds) AS blocked_rounds,
    sum(d.tokens_scored) AS tokens_scored, sum(d.tokens_processed) AS tokens_processed, sum(d.replay_s) AS replay_s
FROM rounds_daily AS d
WHERE day >= toDate(whole_since) AND day >= first_day
    AND ({subject:String} = '' OR adapter = {subject:String} OR base = {subject:String})
GROUP BY cluster, base, adapter, day
UNION ALL
SELECT
    cluster, base, adapter, toDate(at) AS day, count(), countIf(blocked != ''), sum(r.tokens_scored), sum(r.tokens_processed),
    sum(duration_s)
FROM rounds AS r
WHERE at < whole_since AND at >= first_day
    AND ({subject:String} = '' OR adapter = {subject:String} OR base = {subject:String})
GROUP BY cluster, base, adapter, day;
CREATE OR REPLACE VIEW verdicts_by_day AS
WITH
    (SELECT if(count() = 0, toDateTime('2100-01-01 00:00:00', 'UTC'), min(since)) FROM rolled_up WHERE name = 'verdicts_daily') AS whole_since,
    toDate(now('UTC')) - toIntervalDay({days:UInt32}) AS first_day
SELECT cluster, subject_kind, subject, day, min(d.first_at) AS first_at, max(d.last_at) AS last_at
FROM verdicts_daily AS d
WHERE day >= toDate(whole_since) AND day >= first_day
    AND ({subject:String} = '' OR subject = {subject:String}) AND ({cluster:String} = '' OR cluster = {cluster:String})
GROUP BY cluster, subject_kind, subject, day
UNION ALL
SELECT cluster, subject_kind, subject, toDate(at) AS day, min(at), max(at)
FROM verdicts
WHERE at < whole_since AND at >= first_day
    AND ({subject:String} = '' OR subject = {subject:String}) AND ({cluster:String} = '' OR cluster = {cluster:String})
GROUP BY cluster, subject_kind, subject, day;
-- 027_views_for_tools.sql

CREATE OR REPLACE VIEW degraded_now AS
WITH rows_by_pod AS (
    SELECT
        cluster, subject_kind, subject, base, pod, max(at) AS last_row,
        argMax(tuple(
            status, reason, cause, retention, log_e, log_threshold, covered_by, explanation, action,
            answered_by, files, files_known_by
        ), at) AS latest,
        indexOf(['healthy', 'unmonitorable', 'suspect', 'degraded'], latest.1) AS badness
    FROM verdicts
    WHERE at > now() - INTERVAL 25 HOUR
    GROUP BY cluster, subject_kind, subject, base, pod
),
beats AS (SELECT cluster, pod, max(at) AS beat FROM heartbeats GROUP BY cluster, pod),
watched AS (SELECT cluster, pod, argMax(w.subjects, w.at) AS subjects FROM watching AS w GROUP BY cluster, pod),
by_pod AS (
    SELECT
        v.cluster AS cluster, v.subject_kind AS subject_kind, v.subject AS subject, v.base AS base, v.pod AS pod,
        if(w.pod = '' OR has(w.subjects, concat(v.subject_kind, '/', v.subject)), b.beat, v.last_row) AS beat,
        greatest(v.last_row, least(beat, v.last_row + INTERVAL 1 HOUR)) AS judged, v.latest AS latest, v.badness AS badness,
        beat > now() - INTERVAL 3 MINUTE AS is_alive
    FROM rows_by_pod AS v LEFT JOIN beats AS b ON v.cluster = b.cluster AND v.pod = b.pod
        LEFT JOIN watched AS w ON v.cluster = w.cluster AND v.pod = w.pod
    WHERE judged > now() - INTERVAL 24 HOUR
),
pods AS (
    SELECT *, judged = max(judged) OVER (PARTITION BY cluster, subject_kind, subject) OR is_alive AS speaks
    FROM by_pod
),
subjects AS (
    SELECT
        cluster, subject_kind, subject, base, max(judged) AS last_judged,
        argMax(latest, tuple(badness, judged)) AS worst, argMax(pod, tuple(badness, judged)) AS judged_by
    FROM pods WHERE speaks
    GROUP BY cluster, subject_kind, subject, base
)
SELECT
    cluster, subject_kind, subject, base, worst.1 AS status, worst.2 AS reason, worst.3 AS cause, worst.4 AS retention,
    worst.5 AS log_e, worst.6 AS log_threshold, worst.7 AS covered_by, last_judged, judged_by,
    worst.10 AS answered_by, worst.11 AS files, worst.12 AS files_known_by, worst.8 AS explanation, worst.9 AS action
FROM subjects
WHERE status != 'healthy';
CREATE OR REPLACE VIEW verdicts_and_notices_as_logs AS
SELECT
    toDateTime64(at, 9, 'UTC') AS Timestamp, toDateTime(at) AS TimestampTime, '' AS TraceId, '' AS SpanId, toUInt8(0) AS TraceFlags,
    transform(toString(status), ['healthy', 'degraded'], ['INFO', 'ERROR'], 'WARN') AS SeverityText,
    transform(SeverityText, ['INFO', 'WARN', 'ERROR'], [9, 13, 17], 0)::UInt8 AS SeverityNumber,
    'gapwatch' AS ServiceName, explanation AS Body, '' AS ResourceSchemaUrl,
    map('service.name', 'gapwatch', 'service.instance.id', toString(pod), 'k8s.cluster.name', toString(cluster), 'k8s.pod.name', toString(pod))
        ::Map(LowCardinality(String), String) AS ResourceAttributes,
    '' AS ScopeSchemaUrl, 'gapwatch' AS ScopeName, '' AS ScopeVersion, map()::Map(LowCardinality(String), String) AS ScopeAttributes,
    mapFilter((name, value) -> value NOT IN ('', 'nan', 'inf'), map(
        'event.name', 'gen_ai.evaluation.result', 'gen_ai.evaluation.name', 'gapwatch.retention',
        'gen_ai.evaluation.score.value', toString(retention), 'gen_ai.evaluation.score.label', toString(status),
        'gen_ai.evaluation.explanation', explanation, 'gapwatch.subject_kind', toString(subject_kind),
        'gapwatch.subject', toString(subject), 'gapwatch.base', toString(base), 'gapwatch.reason', toString(reason),
        'gapwatch.cause', toString(cause), 'gapwatch.evidence', toString(log_e), 'gapwatch.threshold', toString(log_threshold),
        'gapwatch.round', toString(round)
    ))::Map(LowCardinality(String), String) AS LogAttributes
FROM verdicts
UNION ALL
SELECT
    toDateTime64(at, 9, 'UTC'), toDateTime(at), '', '', toUInt8(0),
    multiIf(kind != 'trigger', 'INFO', reason = 'cannot_tell', 'WARN', 'ERROR') AS severity,
    transform(severity, ['INFO', 'WARN', 'ERROR'], [9, 13, 17], 0)::UInt8,
    'gapwatch', summary, '',
    map('service.name', 'gapwatch', 'service.instance.id', toString(pod), 'k8s.cluster.name', toString(cluster), 'k8s.pod.name', toString(pod))
        ::Map(LowCardinality(String), String),
    '', 'gapwatch', '', map()::Map(LowCardinality(String), String),
    mapFilter((name, value) -> value != '', map(
        'event.name', 'gapwatch.notice', 'gapwatch.notice.kind', toString(kind), 'gapwatch.notice.reason', toString(reason),
        'gapwatch.notice.dedup_key', dedup_key, 'gapwatch.subject_kind', toString(subject_kind), 'gapwatch.subject', toString(subject),
        'gapwatch.base', toString(base), 'gapwatch.cause', toString(cause), 'gapwatch.round', toString(round)
    ))::Map(LowCardinality(String), String)
FROM notices;
CREATE VIEW IF NOT EXISTS otel_logs AS SELECT * FROM verdicts_and_notices_as_logs;
-- 028_urgency.sql

ALTER TABLE notices
    ADD COLUMN IF NOT EXISTS severity LowCardinality(String) COMMENT 'critical, error, warning, info; empty in rows from before this column' AFTER cause,
    ADD COLUMN IF NOT EXISTS owner LowCardinality(String) COMMENT 'whose service got it; empty for the one that gets all without an owner' AFTER severity;
CREATE OR REPLACE VIEW incidents AS
WITH steps AS (
    SELECT
        cluster, dedup_key, subject_kind, subject, base, pod, at, kind, reason, cause, severity, owner, summary,
        -- A trigger under an open incident is one more notice of it.
        kind = 'trigger' AND lagInFrame(kind) OVER w != 'trigger' AS opens
    FROM notices
    WHERE kind IN ('trigger', 'resolve')
        AND ({subject:String} = '' OR subject = {subject:String}) AND ({cluster:String} = '' OR cluster = {cluster:String})
    WINDOW w AS (PARTITION BY cluster, dedup_key ORDER BY at, kind ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)
),
numbered AS (
    SELECT *, sum(opens) OVER (PARTITION BY cluster, dedup_key ORDER BY at, kind) AS number FROM steps
),
whole AS (
    SELECT
        cluster, dedup_key, number, any(subject_kind) AS subject_kind, any(subject) AS subject, any(base) AS base,
        min(at) AS opened_at, maxOrNullIf(at, kind = 'resolve') AS ended_at, argMaxIf(reason, at, kind = 'resolve') AS ended_by,
        argMin(reason, at) AS opened_by, argMaxIf(cause, at, kind = 'trigger' AND cause != 'none') AS cause,
        argMaxIf(severity, at, kind = 'trigger') AS severity, argMaxIf(owner, at, kind = 'trigger') AS owner,
        argMaxIf(summary, at, kind = 'trigger') AS summary, count() AS notices, groupUniqArray(pod) AS pods
    FROM numbered
    WHERE number > 0
    GROUP BY cluster, dedup_key, number
)
SELECT
    *,
    -- Within a day of the end of the one before.
    number > 1 AND opened_at < lagInFrame(ended_at) OVER former + INTERVAL 1 DAY AS reopened
FROM whole
WINDOW former AS (PARTITION BY cluster, dedup_key ORDER BY number ROWS BETWEEN 1 PRECEDING AND CURRENT ROW);
-- 029_tokens_for_a_week.sql

ALTER TABLE verdicts MODIFY SETTING replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;
ALTER TABLE evidence MODIFY SETTING replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;
ALTER TABLE notices MODIFY SETTING replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;
ALTER TABLE flips MODIFY SETTING replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;
ALTER TABLE rounds MODIFY SETTING replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;
ALTER TABLE comparisons MODIFY SETTING replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;
ALTER TABLE interactions MODIFY SETTING replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;
ALTER TABLE request_counts MODIFY SETTING replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;
ALTER TABLE batches MODIFY SETTING replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;
ALTER TABLE aside MODIFY SETTING replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;
ALTER TABLE embeddings MODIFY SETTING replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;
ALTER TABLE traffic_scores MODIFY SETTING replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;
ALTER TABLE heartbeats MODIFY SETTING replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;
ALTER TABLE goldens MODIFY SETTING replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;
ALTER TABLE calibrations MODIFY SETTING replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;
ALTER TABLE traffic_rounds MODIFY SETTING replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;
ALTER TABLE states MODIFY SETTING replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;
ALTER TABLE rounds_hourly MODIFY SETTING replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;
ALTER TABLE rounds_daily MODIFY SETTING replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;
ALTER TABLE verdicts_daily MODIFY SETTING replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;
ALTER TABLE requests_hourly MODIFY SETTING replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800;
-- 030_urgency_in_logs.sql

CREATE OR REPLACE VIEW verdicts_and_notices_as_logs AS
SELECT
    toDateTime64(at, 9, 'UTC') AS Timestamp, toDateTime(at) AS TimestampTime, '' AS TraceId, '' AS SpanId, toUInt8(0) AS TraceFlags,
    transform(toString(status), ['healthy', 'degraded'], ['INFO', 'ERROR'], 'WARN') AS SeverityText,
    transform(SeverityText, ['INFO', 'WARN', 'ERROR'], [9, 13, 17], 0)::UInt8 AS SeverityNumber,
    'gapwatch' AS ServiceName, explanation AS Body, '' AS ResourceSchemaUrl,
    map('service.name', 'gapwatch', 'service.instance.id', toString(pod), 'k8s.cluster.name', toString(cluster), 'k8s.pod.name', toString(pod))
        ::Map(LowCardinality(String), String) AS ResourceAttributes,
    '' AS ScopeSchemaUrl, 'gapwatch' AS ScopeName, '' AS ScopeVersion, map()::Map(LowCardinality(String), String) AS ScopeAttributes,
    mapFilter((name, value) -> value NOT IN ('', 'nan', 'inf'), map(
        'event.name', 'gen_ai.evaluation.result', 'gen_ai.evaluation.name', 'gapwatch.retention',
        'gen_ai.evaluation.score.value', toString(retention), 'gen_ai.evaluation.score.label', toString(status),
        'gen_ai.evaluation.explanation', explanation, 'gapwatch.subject_kind', toString(subject_kind),
        'gapwatch.subject', toString(subject), 'gapwatch.base', toString(base), 'gapwatch.reason', toString(reason),
        'gapwatch.cause', toString(cause), 'gapwatch.evidence', toString(log_e), 'gapwatch.threshold', toString(log_threshold),
        'gapwatch.round', toString(round)
    ))::Map(LowCardinality(String), String) AS LogAttributes
FROM verdicts
UNION ALL
SELECT
    toDateTime64(at, 9, 'UTC'), toDateTime(at), '', '', toUInt8(0),
    -- In rows from before the column severity, by the reason.
    multiIf(
        kind != 'trigger', 'INFO', n.severity != '', transform(toString(n.severity), ['info', 'warning'], ['INFO', 'WARN'], 'ERROR'),
        reason = 'cannot_tell', 'WARN', 'ERROR'
    ) AS level,
    transform(level, ['INFO', 'WARN', 'ERROR'], [9, 13, 17], 0)::UInt8,
    'gapwatch', summary, '',
    map('service.name', 'gapwatch', 'service.instance.id', toString(pod), 'k8s.cluster.name', toString(cluster), 'k8s.pod.name', toString(pod))
        ::Map(LowCardinality(String), String),
    '', 'gapwatch', '', map()::Map(LowCardinality(String), String),
    mapFilter((name, value) -> value != '', map(
        'event.name', 'gapwatch.notice', 'gapwatch.notice.kind', toString(kind), 'gapwatch.notice.reason', toString(reason),
        'gapwatch.notice.dedup_key', dedup_key, 'gapwatch.subject_kind', toString(subject_kind), 'gapwatch.subject', toString(subject),
        'gapwatch.base', toString(base), 'gapwatch.cause', toString(cause), 'gapwatch.round', toString(round),
        'gapwatch.notice.severity', toString(n.severity), 'gapwatch.notice.owner', toString(n.owner)
    ))::Map(LowCardinality(String), String)
FROM notices AS n;
-- 031_path_of_base_requests.sql

ALTER TABLE traffic_scores
    ADD COLUMN IF NOT EXISTS path_from LowCardinality(String) DEFAULT '' COMMENT 'of a response of the base: the adapter from which the path leads to the base; empty for responses of adapters and in rows of earlier versions' AFTER path_log_lik;
-- 032_passport_clocks.sql

CREATE TABLE IF NOT EXISTS passport_clocks (
    cluster LowCardinality(String),
    pod String COMMENT 'that read it',
    adapter LowCardinality(String),
    clock LowCardinality(String) COMMENT 'base_end_of_life, data_expiry, owner_gone, golden_stale, no_rebuild',
    at DateTime64(3, 'UTC') COMMENT 'when it was read; a row that is hours old is of a clock that there is no more',
    due DateTime64(3, 'UTC') COMMENT 'the day on which it runs out, at its beginning',
    stage LowCardinality(String) COMMENT 'the warning in force: so many days before, or over and the months since; empty while the day is far',
    words String
) ENGINE = ReplacingMergeTree(at)
ORDER BY (cluster, adapter, clock)
TTL toDateTime(at) + INTERVAL 30 DAY;
-- 033_costs_and_worth.sql

ALTER TABLE traffic_rounds
    ADD COLUMN IF NOT EXISTS duration_s Float64 COMMENT 'seconds that the models spent on its responses; 0 in rows from before this column';
ALTER TABLE heartbeats
    ADD COLUMN IF NOT EXISTS agent_cpu_s Float64 COMMENT 'CPU seconds of the process of the agent since started_at; 0 in rows from before this column',
    ADD COLUMN IF NOT EXISTS models_cpu_s Float64 COMMENT 'of its model processes since then, those that have ended included';
CREATE TABLE IF NOT EXISTS worth (
    cluster LowCardinality(String),
    pod String COMMENT 'that read it',
    adapter LowCardinality(String),
    base LowCardinality(String) COMMENT 'that answered beside it',
    at DateTime64(3, 'UTC') COMMENT 'when it was measured',
    golden String COMMENT 'hash of the golden record whose canaries were put to both',
    base_hash String,
    worth LowCardinality(String) COMMENT 'adds, base_passes (retire), lost, unclear',
    checked UInt32 COMMENT 'canaries with a check of their own',
    accepted_right UInt32,
    adapter_right UInt32,
    base_right UInt32 COMMENT 'of the base alone',
    gain Float64 COMMENT 'share of right answers of the adapter less that of the base',
    gain_low Float64,
    gain_high Float64,
    base_loss_high Float64 COMMENT 'of what the accepted adapter passes, the share that the base alone fails is at most this',
    gain_left Float64 COMMENT 'share of the gain at enrolment; nan where that is not known',
    right_with_examples Map(LowCardinality(String), Float64) COMMENT 'examples in the prompt of the base -> share of right answers',
    extra_tokens Map(LowCardinality(String), Float64) COMMENT 'likewise -> tokens more a request'
) ENGINE = ReplacingMergeTree
ORDER BY (cluster, adapter, at)
TTL toDateTime(at) + INTERVAL 1600 DAY;
-- 034_requesters.sql

ALTER TABLE interactions
    ADD COLUMN IF NOT EXISTS requester String DEFAULT '' COMMENT 'hash of the user, session or tenant that its record names, without a salt; empty where it names none, and in rows of earlier versions' AFTER request_id;
-- 035_pods_of_verdicts.sql

ALTER TABLE verdicts
    ADD COLUMN IF NOT EXISTS bad_pods Array(LowCardinality(String)) COMMENT 'by sampled responses: pods of those that speak against it since its first bad round; empty where none is named, and in rows of earlier versions' AFTER members,
    ADD COLUMN IF NOT EXISTS scored_pods Array(LowCardinality(String)) COMMENT 'pods of all its scored responses since then' AFTER bad_pods;
CREATE OR REPLACE VIEW degraded_now AS
WITH rows_by_pod AS (
    SELECT
        cluster, subject_kind, subject, base, pod, max(at) AS last_row,
        argMax(tuple(
            status, reason, cause, retention, log_e, log_threshold, covered_by, explanation, action,
            answered_by, files, files_known_by, bad_pods, scored_pods
        ), at) AS latest,
        indexOf(['healthy', 'unmonitorable', 'suspect', 'degraded'], latest.1) AS badness
    FROM verdicts
    WHERE at > now() - INTERVAL 25 HOUR
    GROUP BY cluster, subject_kind, subject, base, pod
),
beats AS (SELECT cluster, pod, max(at) AS beat FROM heartbeats GROUP BY cluster, pod),
watched AS (SELECT cluster, pod, argMax(w.subjects, w.at) AS subjects FROM watching AS w GROUP BY cluster, pod),
by_pod AS (
    SELECT
        v.cluster AS cluster, v.subject_kind AS subject_kind, v.subject AS subject, v.base AS base, v.pod AS pod,
        if(w.pod = '' OR has(w.subjects, concat(v.subject_kind, '/', v.subject)), b.beat, v.last_row) AS beat,
        greatest(v.last_row, least(beat, v.last_row + INTERVAL 1 HOUR)) AS judged, v.latest AS latest, v.badness AS badness,
        beat > now() - INTERVAL 3 MINUTE AS is_alive
    FROM rows_by_pod AS v LEFT JOIN beats AS b ON v.cluster = b.cluster AND v.pod = b.pod
        LEFT JOIN watched AS w ON v.cluster = w.cluster AND v.pod = w.pod
    WHERE judged > now() - INTERVAL 24 HOUR
),
pods AS (
    SELECT *, judged = max(judged) OVER (PARTITION BY cluster, subject_kind, subject) OR is_alive AS speaks
    FROM by_pod
),
subjects AS (
    SELECT
        cluster, subject_kind, subject, base, max(judged) AS last_judged,
        argMax(latest, tuple(badness, judged)) AS worst, argMax(pod, tuple(badness, judged)) AS judged_by
    FROM pods WHERE speaks
    GROUP BY cluster, subject_kind, subject, base
)
SELECT
    cluster, subject_kind, subject, base, worst.1 AS status, worst.2 AS reason, worst.3 AS cause, worst.4 AS retention,
    worst.5 AS log_e, worst.6 AS log_threshold, worst.7 AS covered_by, last_judged, judged_by,
    worst.10 AS answered_by, worst.11 AS files, worst.12 AS files_known_by, worst.13 AS bad_pods, worst.14 AS scored_pods,
    worst.8 AS explanation, worst.9 AS action
FROM subjects
WHERE status != 'healthy';
