-- Have the prompts or the outputs of an adapter changed in kind?
-- Ask it when an adapter is healthy and its users say otherwise; `gapwatch drift ADAPTER` says which kinds grew and shrank.
-- It explains and never pages.
-- subject = '': adapter; all when empty
-- hours = 24: how far back
WITH hourly AS (
    SELECT cluster, subject, stream, toStartOfHour(at) AS hour, max(log_e) AS highest, argMax(log_e, at) AS latest, max(n) AS most
    FROM evidence
    WHERE detector = 'embedding_drift' AND ({subject:String} = '' OR subject = {subject:String})
        AND at >= toStartOfHour(now()) - toIntervalHour({hours:UInt32} - 1)
    GROUP BY cluster, subject, stream, hour
),
thresholds AS (SELECT cluster, subject, argMax(log_threshold, at) AS log_threshold FROM verdicts GROUP BY cluster, subject),
streams AS (
    SELECT
        cluster, subject, stream, argMax(latest, hour) AS log_e, max(highest) AS highest_log_e, max(most) AS embeddings,
        mapFromArrays(groupArray(hour), groupArray(highest)) AS levels
    FROM hourly GROUP BY cluster, subject, stream
)
SELECT
    s.cluster AS cluster, s.subject AS adapter, s.stream AS side, s.log_e AS log_e, s.highest_log_e AS highest_log_e,
    -- What a page would take, if drift paged.
    t.log_threshold AS log_threshold, s.embeddings AS embeddings,
    toStartOfHour(now()) - toIntervalHour({hours:UInt32} - 1) AS from_hour,
    arrayMap(hour -> if(mapContains(s.levels, hour), s.levels[hour], nan), arrayMap(i -> from_hour + toIntervalHour(i), range({hours:UInt32})))
        AS log_e_by_hour
FROM streams AS s LEFT JOIN thresholds AS t ON s.cluster = t.cluster AND s.subject = t.subject
ORDER BY highest_log_e DESC, adapter, side
