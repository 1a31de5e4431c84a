-- Which requests were sampled over a stretch of time, in lengths and, where it is stored, in text?
-- Ask it when users say that answers have become shorter, longer or cut off; `gapwatch report` compares two stretches by it.
-- subject = '': adapter; all when empty
-- cluster = '': one cluster, or all when empty
-- hours = 6: how far back; a fraction is allowed
-- until_hours = 0: up to so long ago
-- limit = 2000: rows, drawn by hash of the request over the whole time
SELECT
    at, adapter, pod, request_id, prompt_chars, output_chars, prompt_tokens, output_tokens, finish_reason, prompt, output
FROM interactions FINAL
-- Conditions on columns of the table's key, which are looked at before FINAL merges anything.
PREWHERE ({subject:String} = '' OR adapter = {subject:String}) AND ({cluster:String} = '' OR cluster = {cluster:String})
    AND at > now() - toIntervalSecond(toUInt32({hours:Float64} * 3600))
    AND at <= now() - toIntervalSecond(toUInt32({until_hours:Float64} * 3600))
ORDER BY cityHash64(request_id, at, partition, offset)
LIMIT {limit:UInt32}
