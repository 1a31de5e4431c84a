-- Which notices were sent, when, and by which pod?
-- Ask it when you want to know who was told what, and when: every notice, also those that ended an incident.
-- subject = '': adapter or base; all when empty
-- days = 30: how far back
SELECT at, kind, reason, subject_kind, subject, cause, severity, owner, pod, summary, dedup_key
FROM notices
WHERE ({subject:String} = '' OR subject = {subject:String}) AND at > now() - toIntervalDay({days:UInt32})
ORDER BY at DESC
