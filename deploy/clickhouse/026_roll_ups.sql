-- Rounds, verdicts and request counts by hours and days: filled by the inserts themselves, and kept for longer than the rows.
-- What was stored before is not copied, so that nothing can be counted twice while agents go on writing, or where this file
-- was applied half and is applied again: each roll-up is whole from the time that rolled_up has, and what is older is read
-- from its table, and all of it where rolled_up says nothing. Every roll-up
-- takes an insert that is sent again once, by its token, as its table does.

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

-- By hour in rows and by minute in each of them: an incident begins and ends at a minute, and of the groups that read one
-- partition the one that has most of a minute counts.
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

-- The present hour and the hours before it, so many together. Parameters: subject, '' for all; hours.
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

-- Today and the days before it, so many together. Parameters: subject, '' for all; days.
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

-- When each subject was judged first and last, day by day. Parameters: subject and cluster, '' for all; days.
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
