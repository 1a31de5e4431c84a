-- Which incidents were there, how long did they last, and what ended them?
-- Ask it when you take over a shift, or want to know whether this has happened before; `gapwatch explain` tells one whole, and `gapwatch report` compares it with healthy time.
-- subject = '': adapter or base; all when empty
-- cluster = '': one cluster, or all when empty
-- days = 90: how far back an incident may have ended
SELECT
    opened_at, ended_at, round(dateDiff('second', opened_at, coalesce(ended_at, now64(3))) / 60, 1) AS minutes, subject_kind, subject, base,
    -- degraded, or cannot_tell: nobody could judge it.
    opened_by AS kind, cause, severity, owner, ended_by, toBool(reopened) AS reopened, notices, pods, cluster, summary, dedup_key
FROM incidents(subject = {subject:String}, cluster = {cluster:String})
WHERE ended_at IS NULL OR ended_at > now() - toIntervalDay({days:UInt32})
ORDER BY ended_at IS NULL DESC, opened_at DESC
