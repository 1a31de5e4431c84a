-- Which notices were sent, and when?
-- subject = '': adapter or base; all when empty
-- days = 30: how far back
SELECT at, kind, reason, subject_kind, subject, cause, summary, dedup_key
FROM notices
WHERE ({subject:String} = '' OR subject = {subject:String}) AND at > now() - toIntervalDay({days:UInt32})
ORDER BY at DESC
