"""``gapwatch run`` as processes of their own, and what is read of them from outside: health, metrics, memory."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from agent.demo.broker import free_port

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 120.0
NOWHERE = "127.0.0.1:9"


@dataclass(frozen=True, slots=True)
class Agent:
    """One running. port: of /livez and /metrics; folder: its configuration, state and log."""

    process: subprocess.Popen[bytes]
    port: int
    folder: Path

    def get(self, path: str, timeout_s: float = 10.0) -> str:
        """The page, "" where it does not answer."""
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=timeout_s).text
        except httpx.TransportError:
            return ""

    def metric(self, pattern: str) -> float | None:
        """Value of the first line of the metrics that begins with this pattern; None for none."""
        line = re.search(rf"^{pattern}\S* (\S+)$", self.get("/metrics"), re.M)
        return float(line.group(1)) if line else None

    @property
    def processes(self) -> list[psutil.Process]:
        """The process and what it started."""
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def memory_mb(self) -> float:
        """Resident, of all of them."""
        return sum(process.memory_info().rss for process in self.processes) / 1e6

    def threads(self) -> int:
        return sum(process.num_threads() for process in self.processes)

    def end(self) -> float:
        """Seconds from SIGTERM to its end; killed where that takes too long."""
        began = time.monotonic()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        return time.monotonic() - began


@contextmanager
def agent(folder: Path, settings: dict[str, Any], ports: tuple[int, int] | None = None) -> Iterator[Agent]:
    """An agent with these settings over ``without_models``, from its start until it is ended.

    ports: for metrics and for commands; by default two that are free, which needs IPv4
    """
    folder.mkdir(parents=True)
    port, control_port = ports or (free_port(), free_port())
    own = {"telemetry": {"prometheus_port": port, "control_port": control_port}, "state_dir": str(folder / "state")}
    config = folder / "gapwatch.yaml"
    config.write_text(yaml.safe_dump(without_models() | settings | own))
    with (folder / "agent.log").open("wb") as log:
        command = [sys.executable, "-m", "agent", "run", "--config", str(config)]
        running = Agent(subprocess.Popen(command, cwd=ROOT, stderr=log, stdout=log), port, folder)
    try:
        yield running
    finally:
        running.end()


def without_models() -> dict[str, Any]:
    """A configuration that loads nothing, with broker and store away."""
    model = {"name": "m", "path": "./base", "replay": False, "adapters": [{"name": "a", "path": "./adapter"}]}
    return {
        "models": [model],
        "kafka": {"bootstrap_servers": [NOWHERE], "topic": "t"},
        "clickhouse": {"dsn": f"clickhouse://default@{NOWHERE}/gapwatch"},
        "probes": {"golden_dir": "golden", "cache_dir": "cache"},
    }


def wait_for(holds: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> None:
    """Raises TimeoutError naming what did not happen."""
    give_up = time.monotonic() + patience_s
    while not holds():
        if time.monotonic() > give_up:
            raise TimeoutError(what)
        time.sleep(0.2)


@contextmanager
def store_server(folder: Path) -> Iterator[str]:
    """The address of a ClickHouse server (the test server over chDB) in a process of its own."""
    folder.mkdir(parents=True)
    port = free_port()
    command = [sys.executable, "-m", "tests.clickhouse_http", str(folder), str(port)]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        wait_for(lambda: _answers(f"http://127.0.0.1:{port}/ping"), "a store")
        yield f"clickhouse://default@127.0.0.1:{port}/gapwatch"
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).is_success
    except httpx.TransportError:
        return False
