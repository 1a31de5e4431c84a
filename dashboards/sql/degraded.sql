-- What is degraded, suspect or unmonitorable now, and for which cause?
-- Ask it first: it is what every page is about, and says what is missing until an incident ends.
-- cluster = '': one cluster, or all when empty
-- hours = 24: how far back a subject may last have been judged
-- Figures are those of a pod's latest row: verdicts are stored on change and once an hour.
SELECT *
FROM judged_now(cluster = {cluster:String}, hours = {hours:UInt32})
WHERE status != 'healthy'
ORDER BY status = 'degraded' DESC, subject_kind = 'base' DESC, subject
