"""An insert that is sent again under its token changes no table: neither its own nor what views fill from it."""

from __future__ import annotations

from typing import Any

import pytest

from agent.store import client as store
from agent.store.rows import to_rows
from agent.store.table_rows import Insert, plain
from tests.agent import findings
from tests.agent.store.stored import HERE, embedded

pytestmark = embedded
# A copy of a row here is none: it has the key of its original, or is a maximum. Every other table rests on the token.
WITHOUT_TOKENS = {
    *("counted", "files_replays", "passport_clocks", "rolled_up", "schema_begun", "schema_version"),
    *("watching", "worth"),
}


def inserts() -> list[Insert]:
    groups = [group for finding in findings.every_kind() for group in to_rows(finding, HERE)]
    return [Insert(group.table, group.rows, group.token or f"token-{n}") for n, group in enumerate(groups)]


def send(client: store.Client, insert: Insert) -> None:
    columns = list(insert.rows[0])
    data = [[plain(row[name]) for name in columns] for row in insert.rows]
    client.insert(insert.table, data, column_names=columns, settings=store.insert_settings(insert.token))


def content(client: store.Client) -> dict[str, Any]:
    """Of every table that keeps rows: how many, and a hash of all of them."""
    engines = "SELECT name, engine FROM system.tables WHERE database = currentDatabase() AND engine LIKE '%MergeTree'"
    answer = {}
    for table, engine in client.query(engines).result_rows:
        final = "FINAL" if engine == "AggregatingMergeTree" else ""  # its rows are merged when the engine likes
        answer[table] = client.query(f"SELECT count(), sum(cityHash64(*)) FROM {table} {final}").result_rows[0]
    return answer


def test_nothing_is_doubled_in_any_table_and_by_any_view(migrated: store.Client) -> None:
    for insert in inserts():
        send(migrated, insert)
    once = content(migrated)
    filled = {table for table, (rows, _) in once.items() if rows}
    assert {"counted", "requests_hourly", "rounds_daily", "rounds_hourly", "verdicts_daily"} <= filled
    assert {insert.table for insert in inserts()} <= filled, "every table that the agent writes"
    for insert in (*inserts(), *inserts()):
        send(migrated, insert)
    again = content(migrated)
    kept = {table: value for table, value in again.items() if table not in WITHOUT_TOKENS}
    assert kept == {table: once[table] for table in kept}
    sums = "SELECT sum(n), (SELECT sum(arraySum(mapValues(by_minute))) FROM requests_hourly) FROM request_counts"
    assert migrated.query(sums).result_rows == [(10, 10)]


def test_a_view_that_failed_in_the_middle_is_filled_when_the_insert_is_sent_again(migrated: store.Client) -> None:
    """The table had its rows, the roll-up had not; both have them once in the end."""
    (counts,) = (insert for insert in inserts() if insert.table == "request_counts")
    migrated.command("RENAME TABLE requests_hourly TO hidden")
    with pytest.raises(Exception, match="requests_hourly"):
        send(migrated, counts)
    migrated.command("RENAME TABLE hidden TO requests_hourly")
    for _ in range(2):
        send(migrated, counts)
    assert migrated.query("SELECT sum(n) FROM request_counts").result_rows == [(10,)]
    assert migrated.query("SELECT sum(arraySum(mapValues(by_minute))) FROM requests_hourly").result_rows == [(10,)]
    assert migrated.query("SELECT max(next) FROM counted").result_rows == [(11,)]


def test_every_table_remembers_tokens_for_longer_than_an_outage(migrated: store.Client) -> None:
    engines = """SELECT name, engine_full FROM system.tables
    WHERE database = currentDatabase() AND engine LIKE '%MergeTree' AND name != 'state_claims'"""
    for table, settings in migrated.query(engines).result_rows:
        if table not in WITHOUT_TOKENS:
            assert "non_replicated_deduplication_window = 1000" in settings, table
            assert "replicated_deduplication_window_seconds = 604800" in settings, table
