-- How did the evidence grow, compared with the threshold for a page?
-- Ask it when a page is doubted, or seems late: how fast the evidence rose, stream by stream.
-- subject = '': adapter or base; all when empty
-- hours = 6: how far back
SELECT e.at AS at, e.subject_kind AS subject_kind, e.subject AS subject, e.detector AS detector, e.stream AS stream,
    e.round AS round, e.log_e AS log_e, v.log_threshold AS log_threshold, e.n AS n, e.pages AS pages
FROM evidence AS e LEFT JOIN (
    SELECT cluster, subject_kind, subject, argMax(log_threshold, at) AS log_threshold
    FROM verdicts GROUP BY cluster, subject_kind, subject
) AS v ON e.cluster = v.cluster AND e.subject_kind = v.subject_kind AND e.subject = v.subject
WHERE ({subject:String} = '' OR e.subject = {subject:String}) AND e.at > now() - toIntervalHour({hours:UInt32})
ORDER BY subject_kind, subject, detector, stream, at
