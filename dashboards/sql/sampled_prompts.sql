-- Which distinct prompts were sampled (for `gapwatch canaries`)?
-- Ask it when you want to see what an adapter is really asked, and how often. There is text only where clickhouse.store_text is set.
-- subject = '': adapter; all when empty
-- hours = 168: how far back
-- limit = 5000: prompts, drawn by their hash over the whole time
SELECT p.adapter AS adapter, p.hash AS prompt_hash, p.requests AS requests, p.tokens AS tokens, p.last_at AS last_at,
    p.latest.1 AS prompt, p.latest.2 AS roles, p.latest.3 AS turn_chars, e.vector AS vector
FROM (
    SELECT
        adapter, toString(prompt_hash) AS hash, count() AS requests, max(prompt_tokens) AS tokens, max(at) AS last_at,
        -- All of one row: the turns of one and the text of another would not fit.
        argMax(tuple(prompt, roles, turn_chars), tuple(notEmpty(roles), notEmpty(prompt), at)) AS latest
    FROM interactions FINAL
    -- Conditions on columns of the table's key, which are looked at before FINAL merges anything.
    PREWHERE ({subject:String} = '' OR adapter = {subject:String}) AND at > now() - toIntervalHour({hours:UInt32})
    GROUP BY adapter, hash
    ORDER BY cityHash64(hash)
    LIMIT {limit:UInt32}
) AS p
LEFT JOIN (
    -- Of any request that had the prompt. By the time as well: some engines draw their ids from a thousand.
    SELECT v.adapter AS adapter, i.hash AS hash, any(v.vector) AS vector
    FROM embeddings AS v INNER JOIN (
        SELECT adapter, request_id, at, toString(prompt_hash) AS hash FROM interactions
        WHERE ({subject:String} = '' OR adapter = {subject:String}) AND at > now() - toIntervalHour({hours:UInt32})
    ) AS i ON v.adapter = i.adapter AND v.request_id = i.request_id AND v.at = i.at
    WHERE v.side = 'prompt' AND v.at > now() - toIntervalHour({hours:UInt32})
    GROUP BY adapter, hash
) AS e ON p.adapter = e.adapter AND p.hash = e.hash
ORDER BY requests DESC, prompt_hash
