-- How many users, sessions or tenants were answered by an adapter over a stretch of time, as far as sampled records name them?
-- Ask it for whom an incident touched. Of sampled requests alone, so that there are more; each is a hash of the first field that a record has of those in docs/records.md, and a tenant counts once.
-- subject = '': adapter, or base for all of its adapters; all when empty
-- cluster = '': one cluster, or all when empty
-- hours = 24: how far back; a fraction is allowed
-- until_hours = 0: up to so long ago
SELECT
    cluster, adapter, count() AS sampled,
    -- Sampled requests whose record names somebody.
    countIf(requester != '') AS naming, uniqExactIf(requester, requester != '') AS requesters
FROM interactions FINAL
-- Conditions on columns of the table's key, which are looked at before FINAL merges anything.
PREWHERE ({cluster:String} = '' OR cluster = {cluster:String})
    AND at > now() - toIntervalSecond(toUInt32({hours:Float64} * 3600))
    AND at <= now() - toIntervalSecond(toUInt32({until_hours:Float64} * 3600))
WHERE {subject:String} = '' OR adapter = {subject:String} OR base = {subject:String}
GROUP BY cluster, adapter
ORDER BY sampled DESC
