-- Are the files of each adapter as accepted, and does its engine serve them?
-- Ask it when canaries are answered by an engine: it tells a fault of the files from one of serving, pod by pod.
-- subject = '': adapter or base; all when empty
-- cluster = '': one cluster, or all when empty
-- hours = 24: how far back an engine may last have answered
WITH served AS (
    SELECT
        cluster, subject AS adapter, base, pod, max(v.at) AS since,
        argMax(tuple(status, reason, cause, answered_by, files, files_known_by, files_replayed_by, files_replayed_at), v.at) AS latest
    FROM verdicts AS v
    WHERE subject_kind = 'adapter' AND answered_by NOT IN ('', 'files')
        AND ({cluster:String} = '' OR cluster = {cluster:String})
        AND ({subject:String} = '' OR subject = {subject:String} OR base = {subject:String})
        AND v.at > now() - toIntervalHour({hours:UInt32} + 1)
    GROUP BY cluster, subject, base, pod
),
-- Whoever replayed them last, however long ago that is.
replays AS (
    SELECT cluster, adapter, base, argMax(tuple(r.pod, r.as_accepted, r.share_beyond, r.live_base, r.live_adapter), r.at) AS latest, max(r.at) AS replayed_at
    FROM files_replays AS r GROUP BY cluster, adapter, base
),
records AS (SELECT cluster, adapter, argMax(g.smallest_loss, g.accepted_at) AS smallest_loss FROM goldens AS g FINAL GROUP BY cluster, adapter)
SELECT
    s.cluster AS cluster, s.adapter AS adapter, s.base AS base, s.pod AS pod,
    multiIf(s.latest.1 = 'healthy', 'as_accepted', s.latest.1 = 'degraded', 'not_as_accepted', '') AS served,
    s.latest.5 AS files, s.latest.6 AS files_known_by, s.latest.7 AS files_replayed_by, s.latest.8 AS files_replayed_at,
    s.latest.3 AS cause, s.latest.2 AS reason, s.latest.4 AS answered_by, s.since AS since,
    if(r.adapter = '', NULL, r.replayed_at) AS last_replay_at, r.latest.1 AS last_replay_by,
    if(r.adapter = '', NULL, r.latest.2) AS last_replay_as_accepted, if(r.adapter = '', NULL, r.latest.3) AS last_replay_share_beyond,
    r.latest.4 AS replayed_base, r.latest.5 AS replayed_adapter,
    -- What as_accepted means: the smallest loss of strength that would page. NULL where it is not known.
    if(g.adapter != '' AND isFinite(g.smallest_loss), g.smallest_loss, NULL) AS smallest_loss
FROM served AS s LEFT JOIN replays AS r ON s.cluster = r.cluster AND s.adapter = r.adapter AND s.base = r.base
    LEFT JOIN records AS g ON s.cluster = g.cluster AND s.adapter = g.adapter
ORDER BY served = 'not_as_accepted' DESC, files = 'not_as_accepted' DESC, adapter, pod
