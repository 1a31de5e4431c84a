"""gapwatch migrate: with which account, what it prints, and what it says to one that may not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from agent.cli.migrate import migrate_store
from agent.demo.broker import Broker, Kind
from agent.errors import Refused, Retryable
from agent.store import client as store
from agent.terminal.console import console
from tests.clickhouse_http import ClickHouseServer
from tests.conftest import REAL
from tests.kafka_brokers import LEFT_CONNECTING

ROOT = Path(__file__).resolve().parents[3]
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


@LEFT_CONNECTING
@pytest.mark.usefixtures("collected")
@pytest.mark.parametrize("kind", [REAL])
def test_of_a_witness_the_topic_is_created_and_grows_with_the_models_and_never_shrinks(
    tmp_path: Path,
    server: ClickHouseServer,
    shared_broker: Callable[[Kind], Broker],
    kind: Kind,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bootstrap = shared_broker(kind).bootstrap
    further: dict[str, Any] = {"name": "n", "path": "org/other", "adapters": [{"name": "b", "path": "adapters/b"}]}
    of_nobody = {**further, "name": "o", "adapters": [{"name": "c", "path": "adapters/c"}], "replay": False}
    more = [*MODELS, further, of_nobody]

    def migrated(models: list[dict[str, Any]], **section: Any) -> dict[str, Any]:
        kafka = {"bootstrap_servers": bootstrap, "topic": "t", "replays_topic": "replays-of-migrate", **section}
        settings = {"models": models, "kafka": kafka, "role": "witness"}
        store = {"dsn": f"clickhouse://admin@127.0.0.1:{server.port}/gapwatch"}
        (tmp_path / "witness.yaml").write_text(yaml.safe_dump(settings | {"clickhouse": store}))
        assert migrate_store(tmp_path / "witness.yaml", json=True) == 0
        topic: dict[str, Any] = orjson.loads(capsys.readouterr().out)["topic"]
        return topic

    assert migrated(MODELS) == {"name": "replays-of-migrate", "before": 0, "partitions": 1}
    assert migrated(more) == {"name": "replays-of-migrate", "before": 1, "partitions": 2}
    assert migrated(more, replays_partitions=1) == {"name": "replays-of-migrate", "before": 2, "partitions": 2}
    with console.capture() as printed:
        assert migrate_store(tmp_path / "witness.yaml", json=False) == 0
    words = " ".join(printed.get().split())
    assert "topic replays-of-migrate, by which witnesses share the bases: partitions 2, it had 2" in words
    sidecar = {"models": MODELS, "kafka": {"bootstrap_servers": bootstrap, "topic": "t"}, "role": "sidecar"}
    (tmp_path / "sidecar.yaml").write_text(
        yaml.safe_dump(sidecar | {"clickhouse": {"dsn": f"clickhouse://admin@127.0.0.1:{server.port}/gapwatch"}})
    )
    assert migrate_store(tmp_path / "sidecar.yaml", json=True) == 0
    assert orjson.loads(capsys.readouterr().out)["topic"] is None


def test_without_a_broker_the_tables_are_made_and_the_topic_is_told_to_be_missing(
    tmp_path: Path, server: ClickHouseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.kafka.client.PUBLISH_S", 0.5)
    file = written(tmp_path, server, migrations={"user": "admin"})
    witness = {"role": "witness", "kafka": {"bootstrap_servers": "127.0.0.1:9", "topic": "t"}}
    file.write_text(file.read_text() + yaml.safe_dump(witness))
    with pytest.raises(Retryable, match="kafka: "):
        migrate_store(file, json=False)
    client = store.connect(f"clickhouse://agent@127.0.0.1:{server.port}/gapwatch")
    assert client.query("SELECT count() FROM verdicts").result_rows == [(0,)]
    client.close()


def test_a_store_that_a_running_agent_has_open_says_what_to_do(tmp_path: Path, clickhouse: ClickHouseServer) -> None:
    file = tmp_path / "gapwatch.yaml"
    file.write_text(yaml.safe_dump({"models": MODELS, "clickhouse": {"dsn": f"chdb://{clickhouse.folder}"}}))
    command = [sys.executable, "-m", "agent", "migrate", "--config", str(file)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert "stop that agent and run gapwatch migrate again" in ended.stderr and "gapwatch query" not in ended.stderr
