-- What is healthy now, and yet not as it was accepted?
-- Ask it when nothing is degraded and something was deployed: what moved and stayed within tolerance.
-- cluster = '': one cluster, or all when empty
-- hours = 24: how far back a subject may last have been judged
-- Figures are those of a pod's latest row: verdicts are stored on change and once an hour.
WITH rows_by_pod AS (
    SELECT
        cluster, subject_kind, subject, base, pod, max(at) AS last_row,
        argMax(tuple(status, reason, scale, base_shift, tolerated_change, explanation, action, covered_by), at) AS verdict
    FROM verdicts
    WHERE ({cluster:String} = '' OR cluster = {cluster:String}) AND at > now() - toIntervalHour({hours:UInt32} + 1)
    GROUP BY cluster, subject_kind, subject, base, pod
),
beats AS (SELECT cluster, pod, max(at) AS beat FROM heartbeats GROUP BY cluster, pod),
watched AS (SELECT cluster, pod, argMax(w.subjects, w.at) AS subjects FROM watching AS w GROUP BY cluster, pod),
-- Of several pods the one that judged it last; one that shows signs of life has said the same since its last row, of what
-- it still judges.
latest AS (
    SELECT
        v.cluster AS cluster, v.subject_kind AS subject_kind, v.subject AS subject, v.base AS base,
        max(greatest(v.last_row, least(if(w.pod = '' OR has(w.subjects, concat(v.subject_kind, '/', v.subject)), b.beat, v.last_row), v.last_row + INTERVAL 1 HOUR))) AS last_judged,
        argMax(
            v.verdict,
            greatest(v.last_row, least(if(w.pod = '' OR has(w.subjects, concat(v.subject_kind, '/', v.subject)), b.beat, v.last_row), v.last_row + INTERVAL 1 HOUR))
        ) AS verdict
    FROM rows_by_pod AS v LEFT JOIN beats AS b ON v.cluster = b.cluster AND v.pod = b.pod
        LEFT JOIN watched AS w ON v.cluster = w.cluster AND v.pod = w.pod
    GROUP BY cluster, subject_kind, subject, base
    HAVING last_judged > now() - toIntervalHour({hours:UInt32})
),
records AS (SELECT cluster, adapter, argMax(g.smallest_loss, g.accepted_at) AS smallest_loss FROM goldens AS g FINAL GROUP BY cluster, adapter)
SELECT
    l.cluster AS cluster, l.subject_kind AS subject_kind, l.subject AS subject, l.base AS base, if(verdict.5 != '', 'tolerated_change', verdict.2) AS what, verdict.3 AS scale,
    verdict.4 AS base_shift,
    -- The smallest loss of strength that would page; NULL where it is not known.
    if(l.subject_kind = 'adapter' AND g.adapter != '' AND isFinite(g.smallest_loss), g.smallest_loss, NULL) AS smallest_loss,
    last_judged, verdict.6 AS explanation, verdict.7 AS action
FROM latest AS l LEFT JOIN records AS g ON l.cluster = g.cluster AND l.subject = g.adapter
WHERE verdict.1 = 'healthy' AND verdict.8 = ''
    AND (verdict.5 != '' OR verdict.2 IN ('base_moved', 'tokenizer_changed', 'template_changed', 'adapter_moved', 'engine_moved'))
ORDER BY subject_kind = 'base' DESC, subject
