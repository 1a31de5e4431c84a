-- Where do sampled prompts or outputs lie (for `gapwatch drift` and `gapwatch report`)?
-- Ask it for the vectors themselves; `gapwatch drift ADAPTER` reads them.
-- subject = '': adapter; all when empty
-- side = 'prompt': prompt or output
-- cluster = '': one cluster, or all when empty
-- hours = 168: how far back; a fraction is allowed
-- until_hours = 0: up to so long ago
-- limit = 4000: rows, drawn by hash of the request over the whole time
SELECT e.at AS at, e.adapter AS adapter, e.request_id AS request_id, if(e.side = 'prompt', i.prompt, i.output) AS text, e.vector AS vector
FROM (
    SELECT * FROM embeddings FINAL
    WHERE ({subject:String} = '' OR adapter = {subject:String}) AND side = {side:String}
        AND ({cluster:String} = '' OR cluster = {cluster:String})
        AND at > now() - toIntervalSecond(toUInt32({hours:Float64} * 3600))
        AND at <= now() - toIntervalSecond(toUInt32({until_hours:Float64} * 3600))
    ORDER BY cityHash64(request_id)
    LIMIT {limit:UInt32}
) AS e
LEFT JOIN (
    -- By the time as well: some engines draw their ids from a thousand.
    SELECT adapter, request_id, at, any(prompt) AS prompt, any(output) AS output FROM interactions
    WHERE ({subject:String} = '' OR adapter = {subject:String})
        AND at > now() - toIntervalSecond(toUInt32({hours:Float64} * 3600))
        AND at <= now() - toIntervalSecond(toUInt32({until_hours:Float64} * 3600))
    GROUP BY adapter, request_id, at
) AS i ON e.adapter = i.adapter AND e.request_id = i.request_id AND e.at = i.at
ORDER BY at
