-- How many requests were served, per adapter and base, and of how many tokens?
-- Ask it when the worth or the cost of an adapter is in question. Requests are counted, their tokens are those of the sampled ones.
-- subject = '': adapter or base; all when empty
-- days = 7: how far back
WITH
    (SELECT if(count() = 0, toDateTime('2100-01-01 00:00:00', 'UTC'), min(since)) FROM rolled_up WHERE name = 'requests_hourly') AS rolled_up_since,
    toStartOfMinute(now('UTC')) - toIntervalDay({days:UInt32}) AS begins,
    toStartOfHour(now('UTC')) - INTERVAL 1 DAY AS last_day,
-- As requests_since counts: the last day from the counts themselves, what is older from their roll-up.
minutes AS (
    SELECT cluster, adapter, pod, topic, partition, minute, consumer_group, n
    FROM request_counts FINAL
    WHERE minute >= begins AND (minute < rolled_up_since OR minute >= last_day)
    UNION ALL
    SELECT cluster, adapter, pod, topic, partition, hour + toIntervalMinute(minute_of_hour) AS minute, consumer_group, n
    FROM requests_hourly ARRAY JOIN mapKeys(by_minute) AS minute_of_hour, mapValues(by_minute) AS n
    WHERE hour >= toStartOfHour(begins) AND hour >= rolled_up_since AND hour < last_day
),
counts AS (
    SELECT cluster, adapter, minute, sumIf(of_group, consumer_group = '') + maxIf(of_group, consumer_group != '') AS n
    FROM (
        SELECT cluster, adapter, pod, topic, partition, minute, consumer_group, sum(m.n) AS of_group
        FROM minutes AS m WHERE minute >= begins AND ({subject:String} = '' OR adapter = {subject:String})
        GROUP BY cluster, adapter, pod, topic, partition, minute, consumer_group
    )
    GROUP BY cluster, adapter, pod, topic, partition, minute
),
sampled_tokens AS (
    SELECT
        cluster, adapter, count() AS sampled, avgIf(i.prompt_tokens, i.prompt_tokens > 0) AS prompt_tokens,
        avgIf(i.output_tokens, i.output_tokens > 0) AS output_tokens
    FROM interactions AS i FINAL WHERE at >= begins GROUP BY cluster, adapter
)
SELECT
    c.cluster AS cluster, c.adapter AS adapter, c.first_minute AS first_at, c.requests AS requests, t.sampled AS sampled,
    -- nan where no record told them.
    if(t.sampled > 0, t.prompt_tokens, nan) AS prompt_tokens, if(t.sampled > 0, t.output_tokens, nan) AS output_tokens
FROM (
    SELECT cluster, adapter, min(minute) AS first_minute, sum(n) AS requests FROM counts GROUP BY cluster, adapter
) AS c LEFT JOIN sampled_tokens AS t ON c.cluster = t.cluster AND c.adapter = t.adapter
ORDER BY requests DESC
