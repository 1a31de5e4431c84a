-- What was told of one incident, notice by notice, with all details?
-- Ask it when you have the key of an incident and want the pages as they were sent.
-- dedup_key = '': as a page or `gapwatch query incidents` has it
-- limit = 20: the latest notices
SELECT at, kind, reason, cause, severity, owner, pod, summary, details, cluster, subject_kind, subject
FROM notices
WHERE dedup_key = {dedup_key:String} OR {dedup_key:String} = ''
ORDER BY at DESC
LIMIT {limit:UInt32}
