-- Who answered the canaries of a round, and what is known of the files beside an engine that did.

ALTER TABLE rounds
    ADD COLUMN IF NOT EXISTS answered_by LowCardinality(String) COMMENT 'files, or the serving engine and its route in words; empty in rows from before this column and where nothing was asked';

ALTER TABLE verdicts
    ADD COLUMN IF NOT EXISTS answered_by LowCardinality(String) COMMENT 'as of its round',
    ADD COLUMN IF NOT EXISTS files LowCardinality(String) COMMENT 'as_accepted, not_as_accepted, or empty where it is not known; of verdicts on what an engine answered',
    ADD COLUMN IF NOT EXISTS files_known_by LowCardinality(String) COMMENT 'witness: another pod replayed them; this_pod; hash: of the adapter alone, nobody replayed them',
    ADD COLUMN IF NOT EXISTS files_replayed_by LowCardinality(String) COMMENT 'the pod that did, empty for this one',
    ADD COLUMN IF NOT EXISTS files_replayed_at Nullable(DateTime64(3, 'UTC'));

-- How the files of an adapter and its base answered when a pod last replayed them: what other pods say beside their engines.
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
