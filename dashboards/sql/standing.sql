-- How does each adapter stand now, over all pods?
-- Ask it for one line an adapter, as gapwatch portfolio does: the worst of what the pods said last, and on which files.
-- subject = '': adapter or base; all when empty
-- hours = 48: how far back an adapter may last have been judged
SELECT
    cluster, adapter, any(last.6) AS base, argMax(last.1, severity) AS status, argMax(last.2, severity) AS retention,
    argMax(last.3, severity) AS retention_low, argMax(last.4, severity) AS retention_high, argMax(last.5, severity) AS live_base,
    max(last.7) AS judged_at
FROM (
    SELECT
        cluster, subject AS adapter, pod,
        argMax(tuple(status, retention, retention_low, retention_high, live_base, v.base, at), at) AS last,
        indexOf(['healthy', 'suspect', 'unmonitorable', 'degraded'], toString(last.1)) AS severity
    FROM verdicts AS v
    WHERE subject_kind = 'adapter' AND at > now64(3, 'UTC') - toIntervalHour({hours:UInt32})
        AND ({subject:String} = '' OR subject = {subject:String} OR base = {subject:String})
    GROUP BY cluster, adapter, pod
)
GROUP BY cluster, adapter
ORDER BY max(severity) DESC, adapter
