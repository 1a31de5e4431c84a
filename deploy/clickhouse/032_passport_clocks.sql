-- What of the adapters' passports runs out, as the agents read them last: one row for each adapter and clock, replaced once an hour.

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
