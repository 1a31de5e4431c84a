-- What did each part of the watch take, per adapter?
-- Ask it when `gapwatch cost` puts a price on something: these are the rows behind it. Rows without an adapter are of a pod's processes.
-- subject = '': adapter or base, without the processes; all when empty
-- days = 7: how far back
WITH
    now64(3, 'UTC') - toIntervalDay({days:UInt32}) AS begins,
scored AS (
    SELECT cluster, base, adapter, sum(s.tokens) AS n_tokens FROM traffic_scores AS s WHERE judged_at > begins GROUP BY cluster, base, adapter
),
-- A round of responses has its time as a whole: it is shared out by the tokens that were scored of each adapter.
scoring AS (
    SELECT t.cluster AS cluster, t.base AS base, t.first_at AS first_at, t.seconds AS seconds, w.n_tokens AS n_tokens
    FROM (
        SELECT cluster, base, min(at) AS first_at, sum(r.duration_s) AS seconds FROM traffic_rounds AS r WHERE at > begins GROUP BY cluster, base
    ) AS t INNER JOIN (
        SELECT cluster, base, sum(c.n_tokens) AS n_tokens FROM scored AS c GROUP BY cluster, base HAVING n_tokens > 0
    ) AS w ON t.cluster = w.cluster AND t.base = w.base
),
-- CPU seconds count from the start of a pod's agent: of one that started before, what it had at its first heartbeat is not of this time.
processes AS (
    SELECT
        cluster, pod, started_at, min(at) AS first_at,
        max(h.agent_cpu_s) - if(started_at > begins, 0, min(h.agent_cpu_s)) AS agent_s,
        max(h.models_cpu_s) - if(started_at > begins, 0, min(h.models_cpu_s)) AS models_s
    FROM heartbeats AS h WHERE at > begins AND {subject:String} = '' GROUP BY cluster, pod, started_at
)
SELECT cluster, base, adapter, part, first_at, seconds, tokens_scored, tokens_processed
FROM (
    SELECT
        cluster, base, adapter, if(answered_by IN ('', 'files'), 'file canaries', 'engine canaries') AS part, min(at) AS first_at,
        sum(d.duration_s) AS seconds, sum(d.tokens_scored) AS tokens_scored, sum(d.tokens_processed) AS tokens_processed
    FROM rounds AS d WHERE at > begins GROUP BY cluster, base, adapter, part
    UNION ALL
    SELECT
        s.cluster, s.base, s.adapter, 'scoring', o.first_at, o.seconds * s.n_tokens / o.n_tokens, toFloat64(s.n_tokens), toFloat64(s.n_tokens)
    FROM scored AS s INNER JOIN scoring AS o ON s.cluster = o.cluster AND s.base = o.base
    UNION ALL
    SELECT cluster, '', '', 'agent', min(first_at), sum(agent_s), 0., 0. FROM processes GROUP BY cluster
    UNION ALL
    SELECT cluster, '', '', 'models', min(first_at), sum(models_s), 0., 0. FROM processes GROUP BY cluster
)
WHERE {subject:String} = '' OR adapter = {subject:String} OR base = {subject:String}
ORDER BY cluster, base, adapter, part
