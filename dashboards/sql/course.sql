-- How did evidence and retention go over a stretch of time, in few points?
-- Ask it when you want to draw an incident; `gapwatch explain` does.
-- subject = '': adapter or base; all when empty
-- cluster = '': one cluster, or all when empty
-- hours = 6: how far back; a fraction is allowed
-- until_hours = 0: up to so long ago
-- points = 60: stretches that the time is divided into
WITH
    now() - toIntervalSecond(toUInt32({until_hours:Float64} * 3600)) AS ends,
    now() - toIntervalSecond(toUInt32({hours:Float64} * 3600)) AS begins,
    greatest(1, intDiv(dateDiff('second', begins, ends) + {points:UInt32} - 1, {points:UInt32})) AS width_s,
levels AS (
    SELECT least({points:UInt32} - 1, intDiv(dateDiff('second', begins, at), width_s)) AS point, max(log_e) AS level
    FROM (
        SELECT at, log_e FROM evidence
        WHERE pages AND ({subject:String} = '' OR subject = {subject:String}) AND ({cluster:String} = '' OR cluster = {cluster:String})
            AND at > begins AND at <= ends
        -- A base has by its adapters' responses no stream of its own: its verdicts have the highest of theirs, as its page does.
        UNION ALL
        SELECT at, log_e FROM verdicts
        WHERE ({subject:String} = '' OR subject = {subject:String}) AND ({cluster:String} = '' OR cluster = {cluster:String})
            AND isFinite(log_e) AND at > begins AND at <= ends
    )
    GROUP BY point
),
kept AS (
    SELECT least({points:UInt32} - 1, intDiv(dateDiff('second', begins, at), width_s)) AS point, avgIf(retention, isFinite(retention)) AS mean
    FROM rounds
    WHERE ({subject:String} = '' OR adapter = {subject:String} OR base = {subject:String})
        AND ({cluster:String} = '' OR cluster = {cluster:String}) AND blocked = '' AND at > begins AND at <= ends
    GROUP BY point
),
thresholds AS (
    SELECT argMax(log_threshold, at) AS latest FROM verdicts
    WHERE ({subject:String} = '' OR subject = {subject:String}) AND ({cluster:String} = '' OR cluster = {cluster:String})
        AND at > begins - INTERVAL 2 HOUR AND at <= ends
)
SELECT
    begins + toIntervalSecond(p.point * width_s) AS at, if(l.width = 1, l.level, nan) AS log_e,
    (SELECT latest FROM thresholds) AS log_threshold, if(k.width = 1, k.mean, nan) AS retention
FROM (SELECT arrayJoin(range({points:UInt32})) AS point) AS p
    LEFT JOIN (SELECT *, 1 AS width FROM levels) AS l ON p.point = l.point
    LEFT JOIN (SELECT *, 1 AS width FROM kept) AS k ON p.point = k.point
WHERE (SELECT count() FROM levels) + (SELECT count() FROM kept) > 0
ORDER BY at
