-- How many requests were served, per adapter and base, and of how many tokens?
-- Ask it when the worth or the cost of an adapter is in question. Requests are counted, their tokens are those of the sampled ones.
-- subject = '': adapter or base; all when empty
-- days = 7: how far back
WITH
    (SELECT if(count() = 0, toDateTime('2100-01-01 00:00:00', 'UTC'), min(since)) FROM rolled_up WHERE name = 'requests_hourly') AS rolled_up_since,
    toStartOfMinute(now('UTC')) - toIntervalDay({days:UInt32}) AS begins,
    toStartOfHour(now('UTC')) - INTERVAL 1 DAY AS last_day,
-- As requests_since counts: the last day from the counts themselves, what is older from their roll-up; of consumer groups that
-- read the same, minute by minute the one that has most. That takes long, and few adapters have several: of the others all is
-- added up. Which they are is a value, because a WITH table is computed at each place that names it.
(
    SELECT groupArray(tuple(cluster, adapter)) FROM (
        SELECT cluster, adapter FROM (
            SELECT DISTINCT cluster, adapter, consumer_group FROM requests_hourly
            WHERE hour >= toStartOfHour(begins) AND hour >= rolled_up_since AND consumer_group != ''
            UNION DISTINCT
            SELECT DISTINCT cluster, adapter, consumer_group FROM request_counts
            WHERE minute >= begins AND minute < rolled_up_since AND consumer_group != ''
        )
        GROUP BY cluster, adapter HAVING count() > 1
    )
) AS of_several_groups,
-- PREWHERE, on a column of the table's key, is looked at before FINAL merges anything.
rows_counted AS (
    SELECT cluster, adapter, pod, topic, partition, minute, consumer_group, n
    FROM request_counts FINAL
    PREWHERE minute >= begins AND (minute < rolled_up_since OR minute >= last_day)
    WHERE {subject:String} = '' OR adapter = {subject:String}
),
hours_counted AS (
    SELECT
        cluster, adapter, pod, topic, partition, hour, consumer_group,
        -- The first hour is cut at its minute.
        if(hour >= begins, by_minute, mapFilter((minute_of_hour, n) -> hour + toIntervalMinute(minute_of_hour) >= begins, by_minute)) AS minutes
    FROM requests_hourly
    WHERE hour >= toStartOfHour(begins) AND hour >= rolled_up_since AND hour < last_day AND notEmpty(minutes)
        AND ({subject:String} = '' OR adapter = {subject:String})
),
counts AS (
    SELECT cluster, adapter, min(first_minute) AS first_at, sum(c.requests) AS requests
    FROM (
        SELECT cluster, adapter, min(minute) AS first_minute, sum(m.n) AS requests
        FROM rows_counted AS m WHERE NOT has(of_several_groups, (cluster, adapter))
        GROUP BY cluster, adapter
        UNION ALL
        SELECT cluster, adapter, min(hour + toIntervalMinute(arrayMin(mapKeys(minutes)))), sum(arraySum(mapValues(minutes)))
        FROM hours_counted WHERE NOT has(of_several_groups, (cluster, adapter))
        GROUP BY cluster, adapter
        UNION ALL
        SELECT cluster, adapter, minute, sumIf(of_group, consumer_group = '') + maxIf(of_group, consumer_group != '')
        FROM (
            SELECT cluster, adapter, pod, topic, partition, minute, consumer_group, sum(m.n) AS of_group
            FROM (
                SELECT * FROM rows_counted WHERE notEmpty(of_several_groups) AND has(of_several_groups, (cluster, adapter))
                UNION ALL
                SELECT cluster, adapter, pod, topic, partition, hour + toIntervalMinute(minute_of_hour) AS minute, consumer_group, n
                FROM hours_counted ARRAY JOIN mapKeys(minutes) AS minute_of_hour, mapValues(minutes) AS n
                WHERE notEmpty(of_several_groups) AND has(of_several_groups, (cluster, adapter))
            ) AS m
            GROUP BY cluster, adapter, pod, topic, partition, minute, consumer_group
        )
        GROUP BY cluster, adapter, pod, topic, partition, minute
    ) AS c
    GROUP BY cluster, adapter
),
sampled_tokens AS (
    SELECT
        cluster, adapter, count() AS sampled, avgIf(i.prompt_tokens, i.prompt_tokens > 0) AS prompt_tokens,
        avgIf(i.output_tokens, i.output_tokens > 0) AS output_tokens
    FROM interactions AS i FINAL PREWHERE at >= begins GROUP BY cluster, adapter
)
SELECT
    c.cluster AS cluster, c.adapter AS adapter, c.first_at AS first_at, c.requests AS requests, t.sampled AS sampled,
    -- nan where no record told them.
    if(t.sampled > 0, t.prompt_tokens, nan) AS prompt_tokens, if(t.sampled > 0, t.output_tokens, nan) AS output_tokens
FROM counts AS c LEFT JOIN sampled_tokens AS t ON c.cluster = t.cluster AND c.adapter = t.adapter
ORDER BY requests DESC
