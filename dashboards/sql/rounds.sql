-- What did the last rounds measure?
-- Ask it for the figures of single rounds: a jump or a slope, one round or all, and why one was blocked.
-- subject = '': adapter or base; all when empty
-- limit = 50: rows
SELECT
    at, base, adapter, round, blocked, canaries, draws, retention, scale, distortion, base_shift, gap_ratio,
    top1_agreement, kl_golden_served, mass_outside, answered_by, detail, facts
FROM rounds
WHERE {subject:String} = '' OR adapter = {subject:String} OR base = {subject:String}
ORDER BY at DESC, base, adapter
LIMIT {limit:UInt32}
