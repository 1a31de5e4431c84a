"""Parts of SQL that several dashboards share: what is chosen above them, and which rows a window is read from."""

from __future__ import annotations

from dataclasses import replace

from dashboards.board import Filter, Link

# Series that one panel shows, of a fleet of hundreds.
SHOWN = 20
# Rows are read of windows up to so long; of longer ones the roll-ups by hours.
ROWS_UP_TO_H = 48

IN_CLUSTERS = "$__conditionalAll(cluster IN (${cluster:singlequote}), $cluster)"
IN_PODS = "$__conditionalAll(pod IN (${pod:singlequote}), $pod)"
HOURS_TO_NOW = "toUInt32(dateDiff('hour', $__fromTime, now()) + 2)"
DAYS_TO_NOW = "toUInt32(dateDiff('day', $__fromTime, now()) + 2)"
_CHOSEN_ROUNDS = (
    f"FROM rounds_by_day(subject = '', days = {DAYS_TO_NOW}) AS d"
    " WHERE d.adapter IN (${subject:singlequote}) OR d.base IN (${subject:singlequote})"
)
# What is chosen, the adapters of a base that is, and the base of an adapter that is: its incident speaks for them.
OF_SUBJECTS = (
    "$__conditionalAll((subject IN (${subject:singlequote}) OR subject IN (SELECT arrayJoin([toString(d.adapter),"
    f" toString(d.base)]) {_CHOSEN_ROUNDS})), $subject)"
)
# Of tables about adapters, where a base stands for all its adapters; and of those that do not name the base.
OF_ADAPTERS = "$__conditionalAll((adapter IN (${subject:singlequote}) OR base IN (${subject:singlequote})), $subject)"
OF_ADAPTERS_BY_NAME = (
    "$__conditionalAll((adapter IN (${subject:singlequote}) OR adapter IN (SELECT d.adapter"
    f" {_CHOSEN_ROUNDS})), $subject)"
)
IS_SHORT = f"dateDiff('hour', $__fromTime, $__toTime) <= {ROWS_UP_TO_H}"
IS_LONG = f"dateDiff('hour', $__fromTime, $__toTime) > {ROWS_UP_TO_H}"
# From when on the roll-up of requests has all: see deploy/clickhouse/026_roll_ups.sql.
REQUESTS_WHOLE_SINCE = (
    "(SELECT if(count() = 0, toDateTime('2100-01-01 00:00:00', 'UTC'), min(since)) FROM rolled_up"
    " WHERE name = 'requests_hourly')"
)
_OF_MINUTES = f"$__timeFilter(minute) AND ({IS_SHORT} OR minute < {REQUESTS_WHOLE_SINCE})"
_OF_HOURS = f"{IS_LONG} AND $__timeFilter(hour) AND hour >= {REQUESTS_WHOLE_SINCE}"

_JUDGED = f"verdicts_by_day(subject = '', cluster = '', days = {DAYS_TO_NOW})"
CLUSTERS = Filter("cluster", "Cluster", f"SELECT DISTINCT cluster FROM {_JUDGED} ORDER BY cluster")
SUBJECTS = Filter(
    "subject", "Adapter or base", f"SELECT DISTINCT subject FROM {_JUDGED} WHERE {IN_CLUSTERS} ORDER BY subject"
)
# Where all at once would be hundreds of lines.
A_SUBJECT = replace(SUBJECTS, offers_all=False)
PODS = Filter(
    "pod", "Pod", f"SELECT DISTINCT pod FROM heartbeats WHERE $__timeFilter(at) AND {IN_CLUSTERS} ORDER BY pod"
)

_CHOSEN = "${__url_time_range}&${datasource:queryparam}&${cluster:queryparam}"
RUNBOOK = Link("Runbook of ${__value.raw}", "${runbooks}/${__value.raw}.md")
WHY = Link("Why ${__value.raw}", f"/d/gapwatch-why?var-subject=${{__value.raw:percentencode}}&{_CHOSEN}")
SINCE = Link("Since when ${__value.raw}", f"/d/gapwatch-since?var-subject=${{__value.raw:percentencode}}&{_CHOSEN}")

# The name of the runbook, which is the cause's; and that of what could not be judged.
CAUSE_OF_INCIDENT = "if(opened_by = 'cannot_tell', 'unmonitorable', toString(cause))"


def cause(status: str, name: str) -> str:
    """The same of a verdict; empty where there is none. status, name: the columns that have them"""
    return f"multiIf({name} NOT IN ('', 'none'), toString({name}), {status} = 'unmonitorable', 'unmonitorable', '')"


def requests(time: str, chosen: str) -> str:
    """(time, cluster, adapter, pod, topic, partition, n): requests by intervals, each counted once.

    time: of the column ``minute``; chosen: a condition on cluster and adapter

    As dashboards/sql/requests_since.sql counts: a request that two consumer groups read is in the counts of both, so of
    each partition and interval those of the group that has most of them; what was counted before groups were stored is
    in no group's count again. Short windows are read by minutes with FINAL, which merges only what PREWHERE, on a
    column of the table's key, has left; long ones from the roll-up by hours, and from the minutes where it is not whole
    yet.
    """
    return f"""\
    SELECT time, cluster, adapter, pod, topic, partition,
        sumIf(of_group, consumer_group = '') + maxIf(of_group, consumer_group != '') AS n
    FROM (
        SELECT {time} AS time, cluster, adapter, pod, topic, partition, consumer_group, sum(counted) AS of_group
        FROM (
            SELECT cluster, adapter, pod, topic, partition, consumer_group, minute, n AS counted
            FROM request_counts FINAL
            PREWHERE {_OF_MINUTES}
            WHERE {chosen}
            UNION ALL
            SELECT
                cluster, adapter, pod, topic, partition, consumer_group, hour AS minute,
                arraySum(mapValues(by_minute)) AS counted
            FROM requests_hourly
            WHERE {_OF_HOURS} AND {chosen}
        )
        GROUP BY time, cluster, adapter, pod, topic, partition, consumer_group
    )
    GROUP BY time, cluster, adapter, pod, topic, partition"""


def requests_of_hours(chosen: str) -> str:
    """(hour, cluster, adapter, pod, topic, partition, by_minute): the same by hours, of each a map of its minutes.

    by_minute: minute of the hour -> requests. For what begins and ends within an hour, without a row for
    each minute. chosen: a condition on cluster, adapter and ``hour``
    """
    return f"""\
    SELECT hour, cluster, adapter, pod, topic, partition,
        mapAdd(sumMapIf(of_group, consumer_group = ''), maxMapIf(of_group, consumer_group != '')) AS by_minute
    FROM (
        SELECT hour, cluster, adapter, pod, topic, partition, consumer_group, sumMap(minutes) AS of_group
        FROM (
            SELECT
                cluster, adapter, pod, topic, partition, consumer_group, toStartOfHour(minute) AS hour,
                map(toUInt8(toMinute(minute)), n) AS minutes
            FROM request_counts FINAL
            PREWHERE {_OF_MINUTES}
            WHERE {chosen}
            UNION ALL
            SELECT cluster, adapter, pod, topic, partition, consumer_group, hour, by_minute AS minutes
            FROM requests_hourly
            WHERE {_OF_HOURS} AND {chosen}
        )
        GROUP BY hour, cluster, adapter, pod, topic, partition, consumer_group
    )
    GROUP BY hour, cluster, adapter, pod, topic, partition"""


def retention(of: str) -> str:
    """(time, series, retention): the mean over the measured rounds of each interval. of: what names the series"""
    return foremost(
        f"""\
SELECT time, series, sum(total) / sum(n) AS retention
FROM (
    SELECT $__timeInterval(at) AS time, toString({of}) AS series, retention AS total, 1 AS n
    FROM rounds
    WHERE {IS_SHORT} AND $__timeFilter(at) AND blocked = '' AND isFinite(retention)
        AND {IN_CLUSTERS} AND {OF_ADAPTERS}
    UNION ALL
    SELECT $__timeInterval(hour) AS time, toString({of}) AS series, h.retention_sum AS total, h.retention_n AS n
    FROM rounds_by_hour(subject = '', hours = {HOURS_TO_NOW}) AS h
    WHERE {IS_LONG} AND $__timeFilter(hour) AND {IN_CLUSTERS} AND {OF_ADAPTERS}
)
GROUP BY time, series
HAVING sum(n) > 0""",
        "retention",
        "min(retention) ASC",
    )


def foremost(sql: str, value: str, by: str) -> str:
    """(time, series, value): of an answer with these columns the series that come first. by: aggregate and direction"""
    aggregate, direction = by.rsplit(" ", 1)
    return f"""\
SELECT time, series, {value}
FROM (
    SELECT time, series, {value}, dense_rank() OVER (ORDER BY rank_by {direction}, series) AS place
    FROM (
        SELECT time, series, {value}, {aggregate} OVER (PARTITION BY series) AS rank_by
        FROM (
{sql}
        )
    )
)
WHERE place <= {SHOWN}
ORDER BY time, series"""


def largest_and_rest(sql: str, value: str) -> str:
    """(time, series, value): of an answer with these columns the largest series, and all others in one: sums stay."""
    return f"""\
SELECT time, name AS series, sum(part) AS {value}
FROM (
    SELECT time, if(dense_rank() OVER (ORDER BY whole DESC, series) <= {SHOWN}, series, 'all others') AS name, part
    FROM (
        SELECT time, series, {value} AS part, sum({value}) OVER (PARTITION BY series) AS whole
        FROM (
{sql}
        )
    )
)
GROUP BY time, series
ORDER BY time, series"""
