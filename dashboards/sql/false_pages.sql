-- How many pages are there a year, and how many of them may have been false?
-- Ask it when you compare the false pages that were promised (alerts.false_pages_per_year) with those that came.
-- subject = '': adapter or base; all when empty
-- cluster = '': one cluster, or all when empty
-- days = 365: how far back
-- A page may have been false where it ended by itself and no file was another one than accepted while it was open. A fault of
-- the serving engine that somebody mended looks the same, so this is the most that can have been false. Rows without a
-- subject are of the whole cluster.
WITH pages AS (
    SELECT * FROM incidents(subject = {subject:String}, cluster = {cluster:String})
    WHERE opened_by != 'cannot_tell' AND opened_at > now() - toIntervalDay({days:UInt32})
),
judged AS (
    SELECT
        cluster, subject_kind, subject, max(d.last_at) AS last_at,
        greatest(min(d.first_at), now64(3) - toIntervalDay({days:UInt32})) AS first_at
    FROM verdicts_by_day(subject = {subject:String}, cluster = {cluster:String}, days = {days:UInt32}) AS d
    GROUP BY cluster, subject_kind, subject
    HAVING last_at > now64(3) - toIntervalDay({days:UInt32})
),
moved AS (
    SELECT p.cluster AS cluster, p.dedup_key AS dedup_key, p.number AS number
    FROM pages AS p INNER JOIN verdicts AS v
        ON p.cluster = v.cluster AND p.subject_kind = v.subject_kind AND p.subject = v.subject
    WHERE v.status = 'degraded' AND v.at > p.opened_at - INTERVAL 1 HOUR AND v.at <= coalesce(p.ended_at, now64(3))
        AND ((v.live_base != v.golden_base AND v.live_base != '' AND v.golden_base != '')
            OR (v.live_adapter != v.golden_adapter AND v.live_adapter != '' AND v.golden_adapter != ''))
    GROUP BY cluster, dedup_key, number
),
counted_pages AS (
    SELECT
        p.cluster AS cluster, p.subject_kind AS subject_kind, p.subject AS subject, count() AS pages,
        countIf(p.ended_at IS NULL) AS open_now, countIf(p.ended_by = 'reenrolled') AS ended_by_new_record,
        countIf(p.ended_by = 'recovered' AND m.dedup_key = '') AS maybe_false
    FROM pages AS p LEFT JOIN moved AS m ON p.cluster = m.cluster AND p.dedup_key = m.dedup_key AND p.number = m.number
    GROUP BY cluster, subject_kind, subject
),
totals AS (
    SELECT
        j.cluster AS cluster, j.subject_kind AS subject_kind, j.subject AS subject,
        dateDiff('second', min(j.first_at), max(j.last_at)) / 86400 AS watched_days, sum(c.pages) AS pages,
        sum(c.open_now) AS open_now, sum(c.ended_by_new_record) AS ended_by_new_record, sum(c.maybe_false) AS maybe_false
    FROM judged AS j LEFT JOIN counted_pages AS c
        ON j.cluster = c.cluster AND j.subject_kind = c.subject_kind AND j.subject = c.subject
    GROUP BY GROUPING SETS ((cluster), (cluster, subject_kind, subject))
)
SELECT
    cluster, subject_kind, subject, watched_days, pages, open_now, ended_by_new_record, maybe_false,
    -- NULL before the first day is over: that says nothing of a year.
    if(watched_days >= 1, maybe_false * 365 / watched_days, NULL) AS maybe_false_a_year,
    -- 95 % upper bound of a Poisson rate, by Wilson and Hilferty's approximation of the chi-squared quantile: within 1 %.
    if(
        watched_days >= 1,
        (maybe_false + 1) * pow(1 - 1 / (9 * (maybe_false + 1)) + 1.645 / (3 * sqrt(maybe_false + 1)), 3) * 365 / watched_days, NULL
    ) AS maybe_false_a_year_at_most
FROM totals
ORDER BY cluster, subject = '' DESC, pages DESC, subject
