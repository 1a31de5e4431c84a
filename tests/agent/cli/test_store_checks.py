"""Each fault of the store or of its disk is one clear line of doctor: what was there, what is wanted, what to do."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from agent.cli import store_checks as checks
from agent.config import Config, parse
from agent.delivery.spool import Spool
from agent.store import migrations
from agent.store.client import connect
from agent.store.table_rows import Insert
from agent.terminal.check import Check
from tests.clickhouse_http import ClickHouseServer

MODELS = [{"name": "m", "served": {"url": "http://127.0.0.1:9"}, "adapters": [{"name": "a"}]}]


@pytest.fixture(scope="module")
def migrated_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    """With the tables of this version in database gapwatch."""
    server = ClickHouseServer(tmp_path_factory.mktemp("engine")).start()
    client = connect(f"clickhouse://admin@127.0.0.1:{server.port}/gapwatch")
    migrations.migrate(client)
    client.close()
    yield server
    server.stop()


@pytest.fixture
def server(migrated_server: ClickHouseServer) -> Iterator[ClickHouseServer]:
    """As it was before each test."""
    yield migrated_server
    migrated_server.version, migrated_server.clock_off_s, migrated_server.password = "", 0, ""
    migrated_server.may_read_only.clear()


def config(folder: Path, server: ClickHouseServer, database: str = "gapwatch", **more: Any) -> Config:
    clickhouse = {"dsn": f"clickhouse://agent@127.0.0.1:{server.port}/{database}", **more}
    return parse({"models": MODELS, "clickhouse": clickhouse, "state_dir": "state"}, folder / "gapwatch.yaml")


def found(of: Config, part: str) -> Check:
    (check,) = [check for check in checks.store_checks(of, is_open=False) if check.part == part]
    return check


def test_a_store_and_a_disk_that_are_well_say_so(server: ClickHouseServer, tmp_path: Path) -> None:
    seen = list(checks.store_checks(config(tmp_path, server), is_open=False))
    assert [(check.part, check.ok) for check in seen] == [
        ("disk", True),
        ("clickhouse", True),
        ("clickhouse tables", True),
        ("clickhouse clock", True),
    ]
    assert "MB free, 0.0 MB of rows wait for ClickHouse" in seen[0].result


def test_an_account_that_may_only_read_is_named_before_an_agent_starts(
    server: ClickHouseServer, tmp_path: Path
) -> None:
    server.may_read_only.add("agent")
    check = found(config(tmp_path, server), "clickhouse tables")
    assert not check.ok and check.result == "rows cannot be written (code 164)"
    assert check.wanted.startswith("SELECT and INSERT on the tables for this account")


def test_a_server_that_is_older_than_the_questions_is_named_with_the_version_that_is_wanted(
    server: ClickHouseServer, tmp_path: Path
) -> None:
    server.version = "23.8.16.40"
    check = found(config(tmp_path, server), "clickhouse")
    assert not check.ok
    assert check.result == "version 23.8.16.40, on which views and questions cannot run: wanted 24.3 or later"


@pytest.mark.parametrize(("ahead_s", "words"), [(7200, "7200 s ahead of"), (-600, "600 s behind")])
def test_clocks_that_differ_are_named_with_the_difference(
    ahead_s: int, words: str, server: ClickHouseServer, tmp_path: Path
) -> None:
    server.clock_off_s = ahead_s
    check = found(config(tmp_path, server), "clickhouse clock")
    assert not check.ok and check.result == f"the server's is {words} this machine's"


def test_a_wrong_password_is_named_and_not_repeated(server: ClickHouseServer, tmp_path: Path) -> None:
    server.password = "right"
    (tmp_path / "password").write_text("hunter2")
    check = found(config(tmp_path, server, password_file="password"), "clickhouse")
    assert not check.ok and "login refused (code 516)" in check.result and "hunter2" not in check.result
    assert check.wanted == "clickhouse.dsn and clickhouse.password_file"


def test_a_migration_that_was_cut_off_is_a_fault_where_agents_may_not_finish_it(
    server: ClickHouseServer, tmp_path: Path
) -> None:
    server.fail_next(1, match=b"CREATE OR REPLACE VIEW degraded_now")
    client = connect(f"clickhouse://admin@127.0.0.1:{server.port}/half")
    with pytest.raises(Exception, match="252"):
        migrations.migrate(client)
    client.close()
    left_to_another = config(tmp_path, server, "half", migrations={"user": "admin"})
    check = found(left_to_another, "clickhouse tables")
    assert not check.ok and "(027 was begun and did not end)" in check.result
    assert check.wanted.startswith("gapwatch migrate")
    first_agent = found(config(tmp_path, server, "half"), "clickhouse tables")
    assert first_agent.ok and first_agent.result.endswith("the first agent applies them")


def test_a_disk_with_less_room_than_an_outage_takes_is_named(
    server: ClickHouseServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path / "state" / "spool" / "traffic", 1e9)
    assert spool.append([Insert("t", ({"data": os.urandom(700_000)},), "x")])
    left = found(config(tmp_path, server), "disk")
    assert left.ok and left.result.endswith(" MB free, 0.7 MB of rows wait for ClickHouse")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: _Room(free=120_000_000))
    full = found(config(tmp_path, server), "disk")
    assert not full.ok and full.result.startswith("state_dir: 120 MB free")
    assert full.result.endswith("which may come to 400 MB while it is away")
    assert full.wanted == "a state_dir with room for sinks.clickhouse.spool_mb, or less of that"


class _Room(NamedTuple):
    free: int
