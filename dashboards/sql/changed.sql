-- What is healthy now, and yet not as it was accepted?
-- cluster = '': one cluster, or all when empty
-- hours = 24: how far back a subject may last have been judged
WITH latest AS (
    SELECT
        cluster, subject_kind, subject, base, max(at) AS last_judged,
        argMax(tuple(status, reason, scale, base_shift, tolerated_change, explanation, action, covered_by), at) AS verdict
    FROM verdicts
    WHERE ({cluster:String} = '' OR cluster = {cluster:String}) AND at > now() - toIntervalHour({hours:UInt32})
    GROUP BY cluster, subject_kind, subject, base
)
SELECT
    cluster, subject_kind, subject, base, if(verdict.5 != '', 'tolerated_change', verdict.2) AS what, verdict.3 AS scale,
    verdict.4 AS base_shift, last_judged, verdict.6 AS explanation, verdict.7 AS action
FROM latest
WHERE verdict.1 = 'healthy' AND verdict.8 = ''
    AND (verdict.5 != '' OR verdict.2 IN ('base_moved', 'tokenizer_changed', 'template_changed', 'adapter_moved'))
ORDER BY subject_kind = 'base' DESC, subject
