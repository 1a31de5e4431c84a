-- How did single canaries answer over a stretch of time, each in a few rounds drawn at random?
-- Ask it when a mean hides which canaries moved; `gapwatch report` compares two stretches by it.
-- subject = '': adapter or base; all when empty
-- cluster = '': one cluster, or all when empty
-- hours = 6: how far back; a fraction is allowed
-- until_hours = 0: up to so long ago
-- each = 1: rounds of each canary, drawn by their hash
SELECT
    at, base, adapter, pod, canary, half, round, retention, scale, kl_golden_served, kl_served_base, top1_agreement
FROM comparisons
WHERE route = 'present' AND finite
    AND ({subject:String} = '' OR adapter = {subject:String} OR base = {subject:String}) AND ({cluster:String} = '' OR cluster = {cluster:String})
    AND at > now() - toIntervalSecond(toUInt32({hours:Float64} * 3600))
    AND at <= now() - toIntervalSecond(toUInt32({until_hours:Float64} * 3600))
ORDER BY cityHash64(canary, pod, at)
LIMIT {each:UInt32} BY cluster, adapter, canary
