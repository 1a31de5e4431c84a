-- What does monitoring cost, per adapter and day?
-- Ask it when replays take too much of a machine, or before another adapter is added.
-- subject = '': adapter or base; all when empty
-- days = 7: how far back
SELECT
    toDate(at) AS day, base, adapter, count() AS rounds, countIf(blocked != '') AS blocked_rounds,
    sum(tokens_scored) AS tokens_scored, sum(tokens_processed) AS tokens_processed, sum(duration_s) AS replay_s
FROM rounds
WHERE ({subject:String} = '' OR adapter = {subject:String} OR base = {subject:String})
    AND at > now() - toIntervalDay({days:UInt32})
GROUP BY day, base, adapter
ORDER BY day DESC, replay_s DESC
