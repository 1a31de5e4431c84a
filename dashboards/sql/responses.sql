-- Which sampled responses are unlikely from the accepted adapter, and which alternative explains them best?
-- Ask it when responses alarm and canaries do not: which requests, and whose answers they look like.
-- Newest first: the first bad one says when it began. `against` is evidence, nats: from 3.0 on a response is clearly not from the accepted adapter.
-- subject = '': adapter or base; all when empty
-- hours = 24: how far back
SELECT
    at, adapter, pod, request_id, scored, tokens, against,
    -- The alternative that explains the response best; empty where it was not scored.
    arraySort(pair -> -pair.2, arrayZip(mapKeys(log_l), mapValues(log_l)))[1].1 AS most_likely,
    temperature, top_p, detail
FROM traffic_scores
WHERE ({subject:String} = '' OR adapter = {subject:String} OR base = {subject:String})
    AND at > now() - toIntervalHour({hours:UInt32})
ORDER BY at DESC, against DESC
LIMIT 100
