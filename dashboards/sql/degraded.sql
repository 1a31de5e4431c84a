-- What is degraded, suspect or unmonitorable now, and for whose fault?
-- cluster = '': one cluster, or all when empty
-- hours = 24: how far back a subject may last have been judged
SELECT
    cluster, subject_kind, subject, base,
    argMax(status, at) AS status, argMax(reason, at) AS reason, argMax(cause, at) AS cause,
    argMax(retention, at) AS retention, argMax(log_e, at) AS log_e, argMax(log_threshold, at) AS log_threshold,
    argMax(covered_by, at) AS covered_by, max(at) AS last_judged,
    argMax(explanation, at) AS explanation, argMax(action, at) AS action
FROM verdicts
WHERE ({cluster:String} = '' OR cluster = {cluster:String}) AND at > now() - toIntervalHour({hours:UInt32})
GROUP BY cluster, subject_kind, subject, base
HAVING status != 'healthy'
ORDER BY status = 'degraded' DESC, subject_kind = 'base' DESC, subject
