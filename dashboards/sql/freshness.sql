-- Is everything still being monitored: agents that went silent or judge nothing, adapters without a measured round?
-- Ask it when all is green for long, to know whether anybody still measures.
-- minutes = 5: silence that is too long
-- hours = 168: how far back something may last have been seen
WITH now64(3) AS present
SELECT 'agent' AS what, cluster, pod AS name, max(at) AS last_seen, dateDiff('second', last_seen, present) AS silent_s,
    silent_s > {minutes:UInt32} * 60 OR notEmpty(argMax(overdue, at) AS unjudged) AS too_long,
    if(empty(unjudged), '', concat('no round was judged for several intervals of ', arrayStringConcat(unjudged, ', '))) AS why
FROM heartbeats WHERE at > present - toIntervalHour({hours:UInt32}) GROUP BY cluster, pod
UNION ALL
SELECT 'adapter' AS what, cluster, adapter AS name, maxIf(at, blocked = '') AS last_seen,
    dateDiff('second', last_seen, present) AS silent_s, silent_s > {minutes:UInt32} * 60 AS too_long,
    argMax(concat(blocked, if(detail = '', '', ': '), detail), at) AS why
FROM rounds WHERE at > present - toIntervalHour({hours:UInt32}) GROUP BY cluster, adapter
ORDER BY too_long DESC, what, name
