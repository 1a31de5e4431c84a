-- How much of its effect did each adapter keep, hour by hour and pod by pod?
-- Ask it when a fault may be of one pod, came slowly, or comes and goes. 1 is intact, 0 is the base.
-- subject = '': adapter or base; all when empty
-- hours = 24: how far back
WITH hourly AS (
    SELECT
        cluster, base, adapter, pod, toStartOfHour(at) AS hour, avgIf(retention, isFinite(retention)) AS mean,
        minIf(retention, isFinite(retention)) AS lowest_of_hour, countIf(blocked = '') AS measured, countIf(blocked != '') AS not_measured
    FROM rounds
    WHERE ({subject:String} = '' OR adapter = {subject:String} OR base = {subject:String})
        AND at >= toStartOfHour(now()) - toIntervalHour({hours:UInt32} - 1)
    GROUP BY cluster, base, adapter, pod, hour
),
by_pod AS (
    SELECT
        cluster, base, adapter, pod, argMaxIf(mean, hour, measured > 0) AS latest_hour, minIf(lowest_of_hour, measured > 0) AS lowest,
        sum(measured) AS rounds, sum(not_measured) AS blocked_rounds,
        mapFromArrays(groupArray(hour), groupArray(if(measured > 0, mean, nan))) AS means
    FROM hourly
    GROUP BY cluster, base, adapter, pod
)
SELECT
    cluster, base, adapter, pod, latest_hour, lowest, rounds, blocked_rounds,
    toStartOfHour(now()) - toIntervalHour({hours:UInt32} - 1) AS from_hour,
    -- From that hour to this one; nan where nothing was measured.
    arrayMap(hour -> if(mapContains(means, hour), means[hour], nan), arrayMap(i -> from_hour + toIntervalHour(i), range({hours:UInt32})))
        AS retention_by_hour
FROM by_pod
ORDER BY lowest, adapter, pod
