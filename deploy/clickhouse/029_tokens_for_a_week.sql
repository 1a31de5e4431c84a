-- How long a replicated table remembers the token of an insert: a week. Newer servers remember it for an hour by default,
-- and an insert whose answer was lost when the store went away for longer than that would be stored twice when it is sent again.
-- On one server the number of inserts alone counts (non_replicated_deduplication_window). The other tables need no token: a copy
-- has the key of its original, or is a maximum.

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
