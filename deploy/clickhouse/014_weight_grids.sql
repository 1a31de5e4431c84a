-- How the accepted and the present base are quantised, read from their weights.

ALTER TABLE rounds
    ADD COLUMN IF NOT EXISTS golden_grid LowCardinality(String) COMMENT 'bits, groups and levels in words; none where it is not quantised, empty where unknown',
    ADD COLUMN IF NOT EXISTS live_grid LowCardinality(String);
