-- How much of its effect did each adapter keep, hour by hour and pod by pod?
-- Ask it when a fault may be of one pod, came slowly, or comes and goes. 1 is intact, 0 is the base.
-- subject = '': adapter or base; all when empty
-- hours = 24: how many, the present one included
WITH toStartOfHour(now('UTC')) - toIntervalHour({hours:UInt32} - 1) AS from_hour,
by_pod AS (
    SELECT
        cluster, base, adapter, pod, argMaxIf(mean, hour, measured > 0) AS latest_hour,
        if(isFinite(min(retention_lowest)), min(retention_lowest), nan) AS lowest, sum(measured) AS rounds, sum(not_measured) AS blocked_rounds,
        -- By the place of the hour: a map would be searched once for each of them.
        arrayResize(groupArrayInsertAt(nan)(mean, toUInt32(dateDiff('hour', from_hour, hour))), {hours:UInt32}, nan) AS means
    FROM (
        SELECT *, retention_sum / retention_n AS mean FROM rounds_by_hour(subject = {subject:String}, hours = {hours:UInt32})
        WHERE hour <= now('UTC')
    )
    GROUP BY cluster, base, adapter, pod
)
SELECT
    cluster, base, adapter, pod, latest_hour, lowest, rounds, blocked_rounds, from_hour,
    -- From that hour to this one; nan where nothing was measured.
    means AS retention_by_hour
FROM by_pod
ORDER BY lowest, adapter, pod
