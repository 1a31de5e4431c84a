"""Is the watch itself well? Pods that went silent, rounds that measured nothing, records that were not read."""

from __future__ import annotations

from dashboards.board import Dashboard, Panel, Shape
from dashboards.fragments import CLUSTERS, HOURS_TO_NOW, IN_CLUSTERS, IN_PODS, IS_LONG, IS_SHORT, PODS

LIVE_S = 180  # a pod without a sign of life for so long counts as gone

SIGNS = f"""\
SELECT
    pod, max(at) AS last_sign_of_life, dateDiff('second', last_sign_of_life, $__toTime) AS silent,
    if(silent > {LIVE_S}, 'gone', if(notEmpty(argMax(overdue, at)), 'judges nothing of some', 'alive')) AS state,
    arrayStringConcat(argMax(overdue, at), ', ') AS `no round judged of`,
    if(argMax(unsent, at) < 0, NULL, argMax(unsent, at)) AS `notices to send`, argMax(started_at, at) AS started_at,
    argMax(h.rounds, h.at) AS rounds, argMax(h.records, h.at) AS records, cluster
FROM heartbeats AS h
WHERE at > least($__fromTime, $__toTime - INTERVAL 1 DAY) AND at <= $__toTime AND {IN_CLUSTERS} AND {IN_PODS}
GROUP BY cluster, pod
ORDER BY state = 'alive', silent DESC, pod"""

GAPS = f"""\
SELECT $__timeInterval(at) AS time, toString(pod) AS series, max(gap) AS silent
FROM (
    SELECT cluster, pod, at, dateDiff('second', lagInFrame(at, 1, at) OVER w, at) AS gap
    FROM heartbeats
    WHERE $__timeFilter(at) AND {IN_CLUSTERS} AND {IN_PODS}
    WINDOW w AS (PARTITION BY cluster, pod ORDER BY at ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)
)
GROUP BY time, series
ORDER BY time, series"""

UNSENT = f"""\
SELECT $__timeInterval(at) AS time, toString(pod) AS series, max(unsent) AS waiting
FROM heartbeats
WHERE $__timeFilter(at) AND unsent >= 0 AND {IN_CLUSTERS} AND {IN_PODS}
GROUP BY time, series
ORDER BY time, series"""

ROUNDS = f"""\
SELECT time, sum(good) AS measured, sum(bad) AS `not measured`
FROM (
    SELECT $__timeInterval(at) AS time, toUInt64(blocked = '') AS good, toUInt64(blocked != '') AS bad
    FROM rounds WHERE {IS_SHORT} AND $__timeFilter(at) AND {IN_CLUSTERS} AND {IN_PODS}
    UNION ALL
    SELECT $__timeInterval(hour) AS time, h.measured AS good, h.not_measured AS bad
    FROM rounds_by_hour(subject = '', hours = {HOURS_TO_NOW}) AS h
    WHERE {IS_LONG} AND $__timeFilter(hour) AND {IN_CLUSTERS} AND {IN_PODS}
)
GROUP BY time
ORDER BY time"""

BLOCKED = f"""\
SELECT adapter, base, blocked AS reason, count() AS rounds, min(at) AS first_at, max(at) AS last_at,
    argMax(detail, at) AS detail, pod, cluster
FROM rounds
WHERE $__timeFilter(at) AND blocked != '' AND {IN_CLUSTERS} AND {IN_PODS}
GROUP BY cluster, pod, base, adapter, blocked
ORDER BY last_at DESC, adapter
LIMIT 200"""

RECORDS = f"""\
SELECT $__timeInterval(at) AS time, toString(pod) AS series, sum(b.records) AS records
FROM batches AS b FINAL
WHERE $__timeFilter(at) AND {IN_CLUSTERS} AND {IN_PODS}
GROUP BY time, series
ORDER BY time, series"""

REJECTED = f"""\
SELECT $__timeInterval(at) AS time, toString(reason) AS series, count() AS records
FROM aside FINAL
WHERE $__timeFilter(at) AND {IN_CLUSTERS}
GROUP BY time, series
ORDER BY time, series"""

GOLDENS = f"""\
WITH argMax(g.smallest_loss, g.accepted_at) AS loss
SELECT
    adapter, argMax(g.base, g.accepted_at) AS base, max(g.accepted_at) AS accepted,
    dateDiff('second', accepted, $__toTime) AS age, argMax(g.why, g.accepted_at) AS why,
    if(isFinite(loss), loss, NULL) AS `smallest loss that pages`,
    argMax(g.made_on, g.accepted_at) AS made_on, argMax(g.hash, g.accepted_at) AS hash, cluster
FROM goldens AS g FINAL
WHERE g.accepted_at <= $__toTime AND {IN_CLUSTERS}
GROUP BY cluster, adapter
ORDER BY age DESC, adapter"""

AGENT_HEALTH = Dashboard(
    uid="gapwatch-agent-health",
    title="gapwatch: agent health",
    about="A watch that measures nothing looks like a healthy one. Each pod says so too: /readyz, `gapwatch doctor`.",
    since="now-6h",
    refresh="1m",
    filters=(CLUSTERS, PODS),
    panels=(
        Panel(
            "signs",
            "Is every agent alive, and does it judge?",
            "A heartbeat comes once a minute. 'no round judged of': bases of which none was for several intervals."
            " `gapwatch query freshness`, then `gapwatch doctor` in the pod",
            SIGNS,
            height=6,
            units={"silent": "s"},
        ),
        Panel(
            "rounds",
            "Do rounds measure something?",
            "Of windows over two days from the roll-up by hours.",
            ROUNDS,
            Shape.BARS,
            width=12,
        ),
        Panel(
            "gaps",
            "How long was each pod silent?",
            "The longest time between two heartbeats. A pod that never comes back is in the table above, not here.",
            GAPS,
            Shape.LINES,
            width=12,
            unit="s",
            threshold=LIVE_S,
        ),
        Panel(
            "blocked",
            "What could not be measured, and why?",
            "Three such rounds in a row are reported as 'cannot be judged'. `gapwatch runbook unmonitorable`",
            BLOCKED,
        ),
        Panel(
            "records",
            "How many records are read?",
            "By the agent that read them. None while something is served: the topic, or the consumer group.",
            RECORDS,
            Shape.BARS,
            width=8,
        ),
        Panel(
            "rejected",
            "What is set aside, and why?",
            "Records that could not be read, by reason; never their text. `gapwatch query aside`",
            REJECTED,
            Shape.BARS,
            width=8,
        ),
        Panel(
            "unsent",
            "Do notices get out?",
            "Those that wait in an outbox. A line that does not go back to 0: the receiver, its key, the network.",
            UNSENT,
            Shape.LINES,
            width=8,
            threshold=1,
        ),
        Panel(
            "goldens",
            "What is measured against, and how old is it?",
            "The latest golden record of each adapter. A policy for their age: `alerts.golden_max_age`",
            GOLDENS,
            units={"age": "s", "smallest loss that pages": "percentunit"},
        ),
    ),
)
