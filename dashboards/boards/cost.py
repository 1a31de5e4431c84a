"""What does the watch cost, beside what it watches? Tokens and machine time are from the roll-ups by days."""

from __future__ import annotations

from dashboards.board import Dashboard, Panel, Shape
from dashboards.boards.money import PANELS, PRICES
from dashboards.fragments import (
    CLUSTERS,
    DAYS_TO_NOW,
    IN_CLUSTERS,
    OF_ADAPTERS,
    OF_ADAPTERS_BY_NAME,
    SUBJECTS,
    WHY,
    largest_and_rest,
    requests,
)

DAYS = f"""\
SELECT * FROM rounds_by_day(subject = '', days = {DAYS_TO_NOW})
    WHERE day >= toDate($__fromTime, 'UTC') AND day <= toDate($__toTime, 'UTC') AND {IN_CLUSTERS} AND {OF_ADAPTERS}"""

SERVED = requests("toStartOfDay(minute)", f"{IN_CLUSTERS} AND {OF_ADAPTERS_BY_NAME}")

TOTALS = f"""\
SELECT
    sum(d.tokens_processed) AS `tokens processed`, sum(d.replay_s) AS `machine time`, sum(d.rounds) AS rounds,
    if(rounds = 0, NULL, sum(d.blocked_rounds) / rounds) AS `not measured`
FROM (
    {DAYS}
) AS d"""


def by_day(column: str) -> str:
    """(time, series, value): a column of the roll-up, added up by adapter and day."""
    return largest_and_rest(
        f"""\
SELECT toDateTime(d.day, 'UTC') AS time, toString(d.adapter) AS series, sum(d.{column}) AS value
FROM (
    {DAYS}
) AS d
GROUP BY time, series""",
        "value",
    )


BY_ADAPTER = f"""\
SELECT
    c.adapter AS subject, c.base AS base, c.rounds AS rounds, c.blocked AS `not measured`, c.scored AS `tokens scored`,
    c.processed AS `tokens processed`, c.time_s AS `machine time`, r.n AS requests,
    if(r.n > 0, c.processed / r.n, NULL) AS `tokens a request`, c.cluster AS cluster
FROM (
    SELECT
        d.cluster AS cluster, d.adapter AS adapter, d.base AS base, sum(d.rounds) AS rounds,
        sum(d.blocked_rounds) AS blocked, sum(d.tokens_scored) AS scored, sum(d.tokens_processed) AS processed,
        sum(d.replay_s) AS time_s
    FROM (
        {DAYS}
    ) AS d
    GROUP BY cluster, adapter, base
) AS c LEFT JOIN (
    SELECT q.cluster AS cluster, q.adapter AS adapter, sum(q.n) AS n
    FROM (
{SERVED}
    ) AS q
    GROUP BY cluster, adapter
) AS r ON c.cluster = r.cluster AND c.adapter = r.adapter
ORDER BY `machine time` DESC, subject"""

COST = Dashboard(
    uid="gapwatch-cost",
    title="gapwatch: cost",
    about="Tokens, machine time and money of the watch, beside what was served and what the adapters are worth.",
    since="now-30d",
    refresh="",
    filters=(CLUSTERS, SUBJECTS),
    panels=(
        Panel(
            "totals",
            "In this window",
            "not measured: the share of rounds that were blocked, which cost little and say nothing.",
            TOTALS,
            Shape.NUMBERS,
            height=4,
            units={"machine time": "s", "not measured": "percentunit"},
        ),
        Panel(
            "tokens",
            "How many tokens do canaries take?",
            "Processed by a model or an engine for rounds of canaries, by day. `gapwatch query cost`",
            by_day("tokens_processed"),
            Shape.BARS,
            width=12,
        ),
        Panel(
            "time",
            "How much machine time?",
            "From the begin of a round to its end, shared out among its adapters by their tokens.",
            by_day("replay_s"),
            Shape.BARS,
            width=12,
            unit="s",
        ),
        Panel(
            "adapters",
            "What does each adapter cost?",
            "tokens a request: of canaries, for each request that was served. To pay less: a longer `probes.every`, or"
            " fewer canaries a round.",
            BY_ADAPTER,
            height=10,
            units={"machine time": "s"},
            links={"subject": WHY},
        ),
        *PANELS,
    ),
    typed=PRICES,
)
