"""What the watch costs in money beside serving, and what adapters are worth: two tables of the dashboard Cost.

The arithmetic is that of ``gapwatch cost`` (agent/economics/measured_cost.py) without storage, whose sizes are system
tables; a test compares the two. Prices are typed above the dashboard, because they are configuration and no rows.
"""

from __future__ import annotations

from dashboards.board import Panel, Typed
from dashboards.fragments import IN_CLUSTERS, OF_ADAPTERS, WHY, requests

# The defaults of the section ``costs``; a card costs nothing where gapwatch's own models run on the CPU.
PRICES = (
    Typed("cpu_hour", "Price of a core-hour", "0.04"),
    Typed("gpu_hour", "of a card-hour (0: models on CPU)", "0"),
    Typed("input_million", "of a million tokens read", "0.1"),
    Typed("output_million", "of a million tokens written", "0.4"),
)


def _price(name: str) -> str:
    """What is no number counts as 0."""
    return f"toFloat64OrZero(${{{name}:singlequote}})"


# As dashboards/sql/spent.sql, of the window that is chosen, one row an adapter.
_PARTS = f"""\
    SELECT cluster, base, adapter, sum(file_part) AS file_s, sum(scoring_part) AS scoring_s,
        sum(read_part) AS read_tokens, sum(written_part) AS written_tokens
    FROM (
        SELECT cluster, base, adapter, sumIf(r.duration_s, r.in_process) AS file_part, 0. AS scoring_part,
            sumIf(r.tokens_scored, NOT r.in_process) AS written_part,
            greatest(0., sumIf(r.tokens_processed, NOT r.in_process) - written_part) AS read_part
        FROM (
            SELECT *, answered_by IN ('', 'files') AS in_process FROM rounds
            WHERE $__timeFilter(at) AND {IN_CLUSTERS}
        ) AS r
        GROUP BY cluster, base, adapter
        UNION ALL
        SELECT s.cluster, s.base, s.adapter, 0., t.seconds * s.n / s.whole, 0., 0.
        FROM (
            SELECT cluster, base, adapter, n, sum(n) OVER (PARTITION BY cluster, base) AS whole
            FROM (
                SELECT cluster, base, adapter, sum(c.tokens) AS n FROM traffic_scores AS c
                WHERE $__timeFilter(judged_at) AND {IN_CLUSTERS} GROUP BY cluster, base, adapter
            )
        ) AS s INNER JOIN (
            SELECT cluster, base, sum(d.duration_s) AS seconds FROM traffic_rounds AS d
            WHERE $__timeFilter(at) AND {IN_CLUSTERS} GROUP BY cluster, base
        ) AS t ON s.cluster = t.cluster AND s.base = t.base
        WHERE s.whole > 0
    )
    GROUP BY cluster, base, adapter"""

# CPU seconds count from the start of a pod's agent: of an earlier one, from its first heartbeat in the window.
_PROCESSES = f"""\
    SELECT cluster, sum(agent_part) AS agent_s, sum(models_part) AS models_s
    FROM (
        SELECT cluster, pod, started_at,
            max(h.agent_cpu_s) - if(started_at > $__fromTime, 0, min(h.agent_cpu_s)) AS agent_part,
            max(h.models_cpu_s) - if(started_at > $__fromTime, 0, min(h.models_cpu_s)) AS models_part
        FROM heartbeats AS h WHERE $__timeFilter(at) AND {IN_CLUSTERS} GROUP BY cluster, pod, started_at
    )
    GROUP BY cluster"""

_TOKENS = f"""\
    SELECT cluster, adapter, avgIf(i.prompt_tokens, i.prompt_tokens > 0) AS prompt_tokens,
        avgIf(i.output_tokens, i.output_tokens > 0) AS output_tokens
    FROM interactions AS i FINAL WHERE $__timeFilter(at) AND {IN_CLUSTERS} GROUP BY cluster, adapter"""

_AMOUNTS = f"""\
    SELECT
        p.cluster AS cluster, p.base AS base, p.adapter AS adapter, p.file_s AS file_s, p.scoring_s AS scoring_s,
        p.read_tokens AS read_tokens, p.written_tokens AS written_tokens, q.n AS served,
        t.prompt_tokens AS prompt_tokens, t.output_tokens AS output_tokens,
        sum(p.file_s + p.scoring_s) OVER (PARTITION BY p.cluster) AS whole_s,
        -- Where no process time was stored (rows of an earlier version) each second is one of a core.
        if(o.models_s > 0, o.models_s, whole_s) AS models_s,
        if(whole_s > 0, 0, models_s / count() OVER (PARTITION BY p.cluster)) AS idle_s,
        o.agent_s * if(sum(q.n) OVER (PARTITION BY p.cluster) > 0, q.n / sum(q.n) OVER (PARTITION BY p.cluster),
            1 / count() OVER (PARTITION BY p.cluster)) AS agent_s
    FROM (
{_PARTS}
    ) AS p LEFT JOIN (
{_PROCESSES}
    ) AS o ON p.cluster = o.cluster LEFT JOIN (
        SELECT c.cluster AS cluster, c.adapter AS adapter, sum(c.n) AS n
        FROM (
{requests("toStartOfDay(minute)", IN_CLUSTERS)}
        ) AS c
        GROUP BY cluster, adapter
    ) AS q ON p.cluster = q.cluster AND p.adapter = q.adapter LEFT JOIN (
{_TOKENS}
    ) AS t ON p.cluster = t.cluster AND p.adapter = t.adapter"""

MONEY = f"""\
WITH
    {_price("cpu_hour")} / 3600 AS core_s, {_price("gpu_hour")} / 3600 AS card_s,
    {_price("input_million")} / 1e6 AS token_in, {_price("output_million")} / 1e6 AS token_out
SELECT
    adapter AS subject, base, a.read_tokens * token_in + a.written_tokens * token_out AS `engine canaries`,
    if(a.whole_s > 0, a.file_s / a.whole_s, 0) * a.models_s * core_s + a.file_s * card_s AS `file canaries`,
    if(a.whole_s > 0, a.scoring_s / a.whole_s, 0) * a.models_s * core_s + a.scoring_s * card_s AS scoring,
    (a.agent_s + a.idle_s) * core_s AS processes,
    `engine canaries` + `file canaries` + scoring + processes AS watch, a.served AS requests,
    if(a.served > 0 AND isFinite(a.prompt_tokens + a.output_tokens),
        a.served * (a.prompt_tokens * token_in + a.output_tokens * token_out), NULL) AS serving,
    if(serving > 0, watch / serving, NULL) AS `share of serving`, cluster
FROM (
{_AMOUNTS}
) AS a
WHERE {OF_ADAPTERS}
ORDER BY watch DESC, subject"""

WORTH = f"""\
SELECT adapter AS subject, base, worth, gain, gain_low AS `at least`, gain_high AS `at most`,
    w.adapter_right / w.checked AS `adapter right`, w.base_right / w.checked AS `base alone right`, checked,
    if(isFinite(w.gain_left), w.gain_left, NULL) AS `gain left`, at AS measured_at, cluster
FROM (
    SELECT * FROM worth FINAL WHERE at <= $__toTime AND checked > 0 AND {IN_CLUSTERS} AND {OF_ADAPTERS}
    ORDER BY at DESC LIMIT 1 BY cluster, adapter
) AS w
ORDER BY gain, subject"""

_SHARES = ("gain", "at least", "at most", "adapter right", "base alone right", "gain left")

PANELS = (
    Panel(
        "money",
        "What does watching cost in money, beside serving?",
        "In this window, in the currency of the prices above. processes: of the agents, by requests, and of models that"
        " had nothing to replay. Without storage. serving: requests by the mean tokens of the sampled ones, which are"
        " kept for 30 days. `gapwatch cost`",
        MONEY,
        height=6,
        units={"share of serving": "percentunit"},
        links={"subject": WHY},
    ),
    Panel(
        "worth",
        "What does each adapter still add over its base?",
        "As `gapwatch worth` measured it last, on the canaries' own checks; base_passes: the base alone does the task."
        " What to do about it, and for how much: `gapwatch portfolio`",
        WORTH,
        height=6,
        units=dict.fromkeys(_SHARES, "percentunit"),
        links={"subject": WHY},
    ),
)
