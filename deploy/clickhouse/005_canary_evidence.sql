-- Evidence over rounds, distances both ways, stretches of a canary, and whether an answer passed the canary's own check.

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
