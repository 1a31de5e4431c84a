-- What does monitoring cost, per adapter and day?
-- Ask it when replays take too much of a machine, or before another adapter is added.
-- subject = '': adapter or base; all when empty
-- days = 7: how many, today included
SELECT
    day, base, adapter, sum(d.rounds) AS rounds, sum(d.blocked_rounds) AS blocked_rounds, sum(d.tokens_scored) AS tokens_scored,
    sum(d.tokens_processed) AS tokens_processed, sum(d.replay_s) AS replay_s
FROM rounds_by_day(subject = {subject:String}, days = {days:UInt32}) AS d
GROUP BY day, base, adapter
ORDER BY day DESC, replay_s DESC
