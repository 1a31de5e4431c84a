"""Who creates and alters tables, how long rows are kept, and what an agent says whose account may do neither."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent import shipped
from agent.config import ClickHouse
from agent.errors import Retryable
from agent.store import client as store
from agent.store import migrations
from tests.agent import findings
from tests.agent.golden_file import assert_golden
from tests.agent.store.stored import Connect, embedded, insert
from tests.clickhouse_http import ClickHouseServer

# A user who may read and write, one who may all, and days of keeping.
AGENT, ADMIN, DAY = "agent", "admin", 86_400.0
VIEWS = "SELECT name FROM system.tables WHERE database = currentDatabase() AND engine LIKE '%View'"


@pytest.fixture
def server(clickhouse: ClickHouseServer) -> ClickHouseServer:
    clickhouse.may_write_only = {AGENT}
    clickhouse.refused = []
    return clickhouse


def at(server: ClickHouseServer, database: str, user: str = AGENT, **more: Any) -> ClickHouse:
    return ClickHouse(dsn=f"clickhouse://{user}@127.0.0.1:{server.port}/{database}", **more)


def migrate_as_admin(server: ClickHouseServer, database: str, files: Path | None = None) -> None:
    client = store.connect(at(server, database).dsn, user=ADMIN)
    migrations.migrate(client, files or shipped.MIGRATIONS)
    client.close()


def test_an_account_that_may_create_nothing_says_what_to_run(server: ClickHouseServer, database: str) -> None:
    with pytest.raises(Retryable, match=f"there is no database {database}, and this account may not.*gapwatch migrate"):
        migrations.opened(at(server, database))
    store.connect(at(server, database).dsn, user=ADMIN).close()
    with pytest.raises(Retryable, match=r"001, .*018.* are not applied, and this account may not create them: run gap"):
        migrations.opened(at(server, database))


def test_an_account_that_may_create_nothing_writes_once_the_tables_are_there(
    server: ClickHouseServer, database: str
) -> None:
    migrate_as_admin(server, database)
    client = migrations.opened(at(server, database))
    insert(client, findings.heartbeat())
    assert client.query("SELECT count() FROM heartbeats").result_rows == [(1,)]
    assert server.refused == [], "nothing was tried that the account may not"
    client.close()


def test_tables_of_an_earlier_version_are_named_and_those_of_a_later_one_will_do(
    server: ClickHouseServer, database: str, tmp_path: Path
) -> None:
    files = {file.name: file.read_text() for file in shipped.MIGRATIONS.iterdir() if file.name.endswith(".sql")}
    for name in sorted(files)[:-1]:
        (tmp_path / name).write_text(files[name])
    migrate_as_admin(server, database, tmp_path)
    with pytest.raises(Retryable, match=f"migrations {max(files)[:3]} are not applied"):
        migrations.opened(at(server, database))
    (tmp_path / max(files)).write_text(files[max(files)])
    (tmp_path / "900_later.sql").write_text("CREATE TABLE IF NOT EXISTS later (a UInt8) ENGINE = MergeTree ORDER BY a;")
    migrate_as_admin(server, database, tmp_path)
    migrations.opened(at(server, database)).close()


def test_where_an_account_is_named_for_migrations_agents_create_nothing(
    server: ClickHouseServer, database: str
) -> None:
    """Also where their own account might."""
    settings = at(server, database, ADMIN, migrations={"user": ADMIN}, keep={"rounds": "90d"})
    with pytest.raises(Retryable, match=f"no database {database}: gapwatch migrate creates it"):
        migrations.opened(settings)
    migrate_as_admin(server, database)
    client = migrations.opened(settings)
    assert "toIntervalDay(90)" not in ttl(client, "rounds")
    client.close()


def test_an_account_with_rights_creates_the_tables_at_the_first_start(server: ClickHouseServer, database: str) -> None:
    client = migrations.opened(at(server, database, ADMIN))
    assert migrations.migrate(client) == ()
    client.close()


def ttl(client: store.Client, table: str) -> str:
    sql = "SELECT create_table_query FROM system.tables WHERE database = currentDatabase() AND name = {table:String}"
    return str(client.query(sql, parameters={"table": table}).result_rows[0][0]).rpartition(" TTL ")[2]


@embedded
def test_rows_are_kept_as_long_as_configured(migrated: store.Client) -> None:
    wanted = {"rounds": 90 * DAY, "verdicts": 800 * DAY, "request_counts": 30 * DAY, "evidence": 400 * DAY}
    assert migrations.keep(migrated, wanted) == ("request_counts", "rounds", "verdicts"), "evidence has it already"
    assert ttl(migrated, "rounds").startswith("toDateTime(at) + toIntervalDay(90) ")
    assert ttl(migrated, "verdicts").startswith("toDateTime(at) + toIntervalDay(800) ")
    assert ttl(migrated, "request_counts").startswith("minute + toIntervalDay(30) ")
    assert migrations.keep(migrated, wanted) == ()
    assert migrations.keep(migrated, {"rounds": 9 * DAY}) == ("rounds",), "90 days are not 9"


@embedded
def test_every_table_with_an_end_may_be_given_another(migrated: store.Client) -> None:
    every = dict.fromkeys(migrations.TIMES, 20 * DAY)
    assert set(migrations.keep(migrated, every)) == set(every)
    tables = {name for (name,) in migrated.query("SHOW TABLES").result_rows}
    of_agents = {
        "goldens",
        "schema_version",
        "states",
        "state_claims",
        "counted",
        "watching",
        "rolled_up",
        "schema_begun",
    }
    views = {name for (name,) in migrated.query(VIEWS).result_rows}
    assert tables - set(every) - views == of_agents


def test_a_time_of_keeping_that_the_account_may_not_set_stops_no_row(server: ClickHouseServer, database: str) -> None:
    migrate_as_admin(server, database)
    client = migrations.opened(at(server, database, keep={"rounds": "90d"}))
    insert(client, replace(findings.heartbeat(), pod="pod-9"))
    assert len(server.refused) == 1 and b"MODIFY TTL" in server.refused[0]
    client.close()


def test_the_database_is_created_on_every_node_and_an_account_that_may_not_goes_on(
    server: ClickHouseServer, database: str
) -> None:
    migrate_as_admin(server, database)
    client = store.connect(at(server, database).dsn)
    with pytest.raises(Exception, match="Not enough privileges"):
        migrations.migrate(client, on_cluster="main")
    client.close()
    assert server.refused[0] == f"CREATE DATABASE IF NOT EXISTS `{database}` ON CLUSTER 'main'".encode()
    assert server.refused[1].startswith(b"CREATE TABLE IF NOT EXISTS schema_version ON CLUSTER 'main' ("), "it went on"


@embedded
def test_every_statement_may_be_run_a_second_time(dsn: str, connect: Connect) -> None:
    """So a migration that was cut off anywhere is finished by applying it from its begin."""
    client = connect(dsn)
    for text in shipped_texts().values():
        for statement in migrations.split(text):
            for _ in range(2):
                client.command(statement)
    assert client.query("SELECT count() FROM rolled_up FINAL").result_rows == [(4,)]


def test_a_migration_that_was_cut_off_is_named_and_finished(server: ClickHouseServer, database: str) -> None:
    settings = at(server, database, ADMIN)
    server.fail_next(1, match=b"CREATE OR REPLACE VIEW verdicts_and_notices")
    with pytest.raises(Exception, match="252"):
        migrations.opened(settings)
    with pytest.raises(
        Retryable, match=r"migrations 027[, 0-9]* are not applied \(027 was begun and did not end\), and this acc"
    ):
        migrations.opened(at(server, database))
    client = migrations.opened(settings)
    assert migrations.half_applied(client) == () and migrations.unapplied_in_words(client) == ""
    assert client.query("SELECT count() FROM otel_logs").result_rows == [(0,)]
    client.close()


def shipped_texts() -> dict[str, str]:
    return {
        file.name: file.read_text() for file in sorted(shipped.MIGRATIONS.iterdir(), key=str) if file.name[:3].isdigit()
    }


def test_the_whole_ddl_for_one_node_for_replicas_and_for_a_cluster() -> None:
    """Of the other two the lines that differ."""
    plain = "".join(
        f"-- {name}\n" + ";\n".join(migrations.split(text)) + ";\n" for name, text in shipped_texts().items()
    )
    assert_golden("ddl.sql", migrations.statements(plain, replicated=False, on_cluster=""))
    for name, replicated, on_cluster in (("ddl_replicated.sql", True, ""), ("ddl_on_cluster.sql", False, "main")):
        other = migrations.statements(plain, replicated, on_cluster).split("\n")
        differing = [b for a, b in zip(plain.split("\n"), other, strict=True) if a != b]
        assert_golden(name, "\n".join(differing) + "\n")


def test_what_is_left_to_the_cluster_is_said_in_every_statement() -> None:
    for file in shipped.MIGRATIONS.iterdir():
        if file.name.endswith(".sql"):
            text = migrations.statements(file.read_text(), replicated=True, on_cluster="main")
            lines = [line for line in text.split("\n") if line.startswith(("CREATE", "ALTER", "DROP"))]
            assert lines and all("ON CLUSTER 'main'" in line for line in lines), file.name
