"""Stores for the tests of agent/: the embedded engine, and a ClickHouse server over it; and a disk without room.

A process can have one engine folder open at a time. Each module uses its own folder and closes it at the end; each test
uses its own database.
"""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.store import client as store
from agent.store import migrations
from agent.terminal.console import console
from tests.clickhouse_http import ClickHouseServer

_numbers = itertools.count()


@pytest.fixture(autouse=True)
def console_of_a_new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command with --json sends what is for people to standard error until its process ends. It is as wide as without
    a terminal, in whatever process the suite runs."""
    monkeypatch.setattr(console, "stderr", False)
    monkeypatch.setattr(console, "width", 120)


@pytest.fixture(scope="module")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    """A server that answers on loopback over this module's engine folder."""
    server = ClickHouseServer(tmp_path_factory.mktemp("engine")).start()
    yield server
    server.stop()


@pytest.fixture
def database() -> str:
    return f"test_{next(_numbers)}"


@pytest.fixture(params=["embedded", "server"])
def dsn(request: pytest.FixtureRequest, clickhouse: ClickHouseServer, database: str) -> str:
    """The same empty database, in process and over HTTP."""
    if request.param == "server":
        return f"clickhouse://127.0.0.1:{clickhouse.port}/{database}"
    return f"chdb://{clickhouse.folder}?database={database}"


@pytest.fixture
def connect() -> Iterator[Callable[[str], store.Client]]:
    """Clients that are closed when the test is over: an open one would keep the engine's folder open."""
    opened: list[store.Client] = []

    def connect_to(dsn: str) -> store.Client:
        opened.append(store.connect(dsn))
        return opened[-1]

    yield connect_to
    for client in opened:
        client.close()


@pytest.fixture
def migrated(dsn: str, connect: Callable[[str], store.Client]) -> store.Client:
    """A client of an empty, migrated database."""
    client = connect(dsn)
    migrations.migrate(client)
    return client


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB on which ``filler`` has left no room for more than a folder."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        (disk / "filler").write_bytes(b"0" * 900_000)
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.fixture(scope="session")
def store_of_costs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed store with rows that cost something (tests/agent/economics/stores.py); whoever uses it leaves it so."""
    from tests.agent.economics.stores import fill

    return fill(tmp_path_factory.mktemp("costs") / "store")
