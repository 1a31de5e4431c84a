-- Which notices were sent, when, and by which pod?
-- subject = '': adapter or base; all when empty
-- days = 30: how far back
SELECT at, kind, reason, subject_kind, subject, cause, pod, summary, dedup_key
FROM notices
WHERE ({subject:String} = '' OR subject = {subject:String}) AND at > now() - toIntervalDay({days:UInt32})
ORDER BY at DESC
