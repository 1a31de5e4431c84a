-- How are all adapters of that base, and the base itself, in each pod?
-- Ask it when one adapter is degraded: is it alone (its files, its name), or are all of them (the base, the engine)?
-- subject = '': an adapter, or its base; every base when empty
-- hours = 24: how far back a subject may last have been judged
WITH bases AS (
    SELECT DISTINCT cluster, base FROM verdicts
    WHERE ({subject:String} = '' OR subject = {subject:String} OR base = {subject:String})
        AND at > now() - toIntervalHour({hours:UInt32} + 1)
),
rows_by_pod AS (
    SELECT
        cluster, base, subject_kind, subject, pod, max(at) AS last_row,
        argMax(tuple(status, reason, cause, retention, scale, log_e, log_threshold, covered_by), at) AS latest
    FROM verdicts
    WHERE (cluster, base) IN (SELECT cluster, base FROM bases) AND at > now() - toIntervalHour({hours:UInt32} + 1)
    GROUP BY cluster, base, subject_kind, subject, pod
),
beats AS (SELECT cluster, pod, max(at) AS beat FROM heartbeats GROUP BY cluster, pod),
records AS (SELECT cluster, adapter, argMax(g.smallest_loss, g.accepted_at) AS smallest_loss FROM goldens AS g FINAL GROUP BY cluster, adapter)
SELECT
    v.base AS base, v.subject_kind AS subject_kind, v.subject AS subject, v.pod AS pod, v.latest.1 AS status, v.latest.2 AS reason,
    v.latest.3 AS cause, v.latest.4 AS retention, v.latest.5 AS scale, v.latest.6 AS log_e, v.latest.7 AS log_threshold,
    -- What healthy means of an adapter: the smallest loss of its strength that would page. NULL where it is not known.
    v.latest.8 AS covered_by, if(v.subject_kind = 'adapter' AND g.adapter != '' AND isFinite(g.smallest_loss), g.smallest_loss, NULL) AS smallest_loss,
    -- A pod that shows signs of life has said the same since its last row, which is at most an hour old.
    greatest(v.last_row, least(b.beat, v.last_row + INTERVAL 1 HOUR)) AS last_judged, b.beat > now() - INTERVAL 3 MINUTE AS pod_is_alive
FROM rows_by_pod AS v LEFT JOIN beats AS b ON v.cluster = b.cluster AND v.pod = b.pod
    LEFT JOIN records AS g ON v.cluster = g.cluster AND v.subject = g.adapter
ORDER BY base, subject_kind = 'base' DESC, indexOf(['degraded', 'suspect', 'unmonitorable', 'healthy'], status), subject, pod
