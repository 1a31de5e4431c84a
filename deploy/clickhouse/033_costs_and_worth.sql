-- What the watch takes of machines, beside what rounds say already, and what each adapter is still worth.

ALTER TABLE traffic_rounds
    ADD COLUMN IF NOT EXISTS duration_s Float64 COMMENT 'seconds that the models spent on its responses; 0 in rows from before this column';

ALTER TABLE heartbeats
    ADD COLUMN IF NOT EXISTS agent_cpu_s Float64 COMMENT 'CPU seconds of the process of the agent since started_at; 0 in rows from before this column',
    ADD COLUMN IF NOT EXISTS models_cpu_s Float64 COMMENT 'of its model processes since then, those that have ended included';

-- What each adapter still adds over its base on its own task, as gapwatch worth measured it: one row a measurement.
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
