-- What is left of each skill of a composition, hour by hour, and of the same adapter served alone?
-- Ask it when a composition is degraded: a skill that is whole alone was lost in combining, or its member is missing.
-- subject = '': composition, member or base; all when empty
-- hours = 24: how many, the present one included
WITH toStartOfHour(now('UTC')) - toIntervalHour({hours:UInt32} - 1) AS from_hour,
by_hour AS (
    SELECT
        cluster, base, adapter, hour, sum(retention_sum) / sum(retention_n) AS mean, min(retention_lowest) AS lowest, sum(measured) AS rounds
    FROM rounds_by_hour(subject = '', hours = {hours:UInt32})
    WHERE hour <= now('UTC')
    GROUP BY cluster, base, adapter, hour
),
streams AS (
    SELECT
        cluster, base, adapter, argMaxIf(mean, hour, isFinite(mean)) AS latest, min(lowest) AS lowest_round, sum(rounds) AS measured,
        arrayResize(groupArrayInsertAt(nan)(mean, toUInt32(dateDiff('hour', from_hour, hour))), {hours:UInt32}, nan) AS means
    FROM by_hour
    GROUP BY cluster, base, adapter
),
-- A stream of a composition is named "COMPOSITION / MEMBER".
skills AS (
    SELECT
        *, splitByString(' / ', adapter) AS parts,
        arrayStringConcat(arrayPopBack(parts), ' / ') AS composition, parts[-1] AS member
    FROM streams
    WHERE length(parts) > 1
)
SELECT
    s.cluster AS cluster, s.base AS base, s.composition AS composition, s.member AS member, s.latest AS latest_hour,
    -- NULL where the member is not watched by itself.
    if(a.adapter = '' OR a.measured = 0, NULL, a.latest) AS alone, if(isFinite(s.lowest_round), s.lowest_round, nan) AS lowest,
    s.measured AS rounds, from_hour, s.means AS retention_by_hour
FROM skills AS s LEFT JOIN streams AS a ON s.cluster = a.cluster AND s.base = a.base AND s.member = a.adapter
WHERE {subject:String} = '' OR {subject:String} IN (s.base, s.composition, s.member, s.adapter)
ORDER BY cluster, composition, lowest, member
