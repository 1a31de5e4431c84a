"""gapwatch migrate: with which account, what it prints, and what it says to one that may not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from agent.cli.console import console
from agent.cli.migrate import migrate_store
from agent.errors import Refused
from agent.store import client as store
from tests.clickhouse_http import ClickHouseServer

MODELS = [{"name": "m", "path": "org/model", "adapters": [{"name": "a", "path": "adapters/a"}]}]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ClickHouseServer]:
    running = ClickHouseServer(tmp_path / "engine").start()
    running.may_write_only = {"agent"}
    yield running
    running.stop()


def written(folder: Path, server: ClickHouseServer, **section: Any) -> Path:
    section = {"dsn": f"clickhouse://agent@127.0.0.1:{server.port}/gapwatch", **section}
    file = folder / "gapwatch.yaml"
    file.write_text(yaml.safe_dump({"models": MODELS, "clickhouse": section}))
    return file


def test_the_account_of_migrations_creates_what_the_agents_may_not(
    tmp_path: Path, server: ClickHouseServer, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, server, migrations={"user": "admin"}, keep={"rounds": "90d"})
    assert migrate_store(file, json=True) == 0
    told = orjson.loads(capsys.readouterr().out)
    assert told["applied"][0] == 1 and 18 in told["applied"] and told["keep_changed"] == ["rounds"]
    with console.capture() as said:
        assert migrate_store(file, json=False) == 0
    assert "the tables are those of this version" in said.get()
    client = store.connect(f"clickhouse://agent@127.0.0.1:{server.port}/gapwatch")
    assert client.query("SELECT count() FROM verdicts").result_rows == [(0,)]
    client.close()


def test_an_account_without_rights_is_refused_with_where_they_are_listed(
    tmp_path: Path, server: ClickHouseServer
) -> None:
    store.connect(f"clickhouse://admin@127.0.0.1:{server.port}/gapwatch").close()
    with pytest.raises(Refused, match=r"clickhouse\.migrations: .*Not enough privileges.*deploy/README\.md"):
        migrate_store(written(tmp_path, server), json=False)


def test_a_store_that_a_running_agent_has_open_says_what_to_do(tmp_path: Path, clickhouse: ClickHouseServer) -> None:
    file = tmp_path / "gapwatch.yaml"
    file.write_text(yaml.safe_dump({"models": MODELS, "clickhouse": {"dsn": f"chdb://{clickhouse.folder}"}}))
    command = [sys.executable, "-m", "agent", "migrate", "--config", str(file)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert "stop that agent and run gapwatch migrate again" in ended.stderr and "gapwatch query" not in ended.stderr
