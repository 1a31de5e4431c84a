-- What is being watched, and how small a change would be noticed?
-- Ask it when all is green: it says what green means. A loss below smallest_loss pages late or never.
-- subject = '': adapter or base; all when empty
-- hours = 24: how far back an adapter may last have had a round
WITH records AS (
    SELECT
        cluster, adapter, max(g.accepted_at) AS accepted_at,
        argMax(tuple(g.hash, g.smallest_loss, g.draws, g.tolerance, g.made_on), g.accepted_at) AS latest
    FROM goldens AS g FINAL GROUP BY cluster, adapter
),
measured AS (
    SELECT
        cluster, base, adapter, uniqExact(pod) AS pods, maxIf(at, blocked = '') AS last_measured, countIf(blocked = '') AS rounds,
        countIf(blocked != '') AS blocked_rounds, avgIf(draws, blocked = '') AS draws_a_round,
        -- Of the pod with the most rounds: one of them sees a fault of the files, each of them one of its own engine.
        argMax(blocked, at) AS blocked_now
    FROM rounds
    WHERE ({subject:String} = '' OR adapter = {subject:String} OR base = {subject:String}) AND at > now() - toIntervalHour({hours:UInt32})
    GROUP BY cluster, base, adapter
),
paces AS (
    SELECT cluster, adapter, max(pace) AS rounds_an_hour FROM (
        SELECT cluster, adapter, pod, (count() - 1) * 3600 / greatest(1, dateDiff('second', min(at), max(at))) AS pace
        FROM rounds WHERE blocked = '' AND at > now() - toIntervalHour({hours:UInt32}) GROUP BY cluster, adapter, pod
    ) GROUP BY cluster, adapter
),
verdicts_now AS (
    SELECT cluster, subject, argMax(tuple(status, reason), at) AS latest FROM verdicts
    WHERE subject_kind = 'adapter' AND at > now() - toIntervalHour({hours:UInt32} + 1) GROUP BY cluster, subject
)
SELECT
    m.cluster AS cluster, m.base AS base, m.adapter AS adapter, v.latest.1 AS status, r.latest.4 AS tolerance,
    -- NULL where it is not known: no record of this version, or no loss of up to a half pages within 20 rounds.
    if(isFinite(r.latest.2) AND r.adapter != '', r.latest.2, NULL) AS smallest_loss,
    if(isFinite(r.latest.2) AND r.adapter != '' AND p.rounds_an_hour > 0 AND m.draws_a_round > 0,
        ceil(r.latest.3 / m.draws_a_round) * 60 / p.rounds_an_hour, NULL) AS minutes_to_page,
    m.pods AS pods, p.rounds_an_hour AS rounds_an_hour, m.last_measured AS last_measured, m.blocked_rounds AS blocked_rounds,
    m.blocked_now AS blocked_now, if(r.adapter = '', NULL, r.accepted_at) AS accepted_at, r.latest.5 AS made_on, r.latest.1 AS golden
FROM measured AS m
    LEFT JOIN records AS r ON m.cluster = r.cluster AND m.adapter = r.adapter
    LEFT JOIN paces AS p ON m.cluster = p.cluster AND m.adapter = p.adapter
    LEFT JOIN verdicts_now AS v ON m.cluster = v.cluster AND m.adapter = v.subject
ORDER BY blocked_now = '', smallest_loss IS NULL DESC, smallest_loss DESC, adapter
