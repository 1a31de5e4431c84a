"""Memory of ``gapwatch run`` without a model, and how soon it ends after SIGTERM. Traffic is sampled and stored.

The agent runs as its own process over a real broker, once with a ClickHouse server (the test server over chDB, in a
third process, so that its memory is not counted) and once with the embedded engine. Its resident memory is read from
/proc after the traffic was read, then SIGTERM is sent.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import yaml

from agent.demo.broker import free_port, start_broker
from agent.demo.stage import HELPDESK, ROUTING_KEY, TOPIC
from agent.demo.traffic import DemoTraffic
from agent.kafka.client import ensure_topic, publisher
from agent.kafka.contract import Outgoing
from benchmarks.figures import Figure, at_most, context, exactly

ROOT = Path(__file__).resolve().parents[2]
MB = 1e6
PATIENCE_S = 60.0


def measure(quick: bool) -> list[Figure]:
    """Both stores in turn."""
    records = 2_000 if quick else 20_000
    with tempfile.TemporaryDirectory() as folder:
        server = _once(Path(folder) / "server", records, server=True)
        embedded = _once(Path(folder) / "embedded", records, server=False)
    return [
        at_most("resident memory without a model, ClickHouse server", server["rss_mb"], "MB", 250),
        at_most("resident memory without a model, embedded engine", embedded["rss_mb"], "MB", 500),
        exactly("model libraries imported in them", server["torch"] + embedded["torch"], "", 0),
        context("records that had gone through", records, "records"),
        at_most("SIGTERM to the end of the process", max(server["stop_s"], embedded["stop_s"]), "s", 5),
        exactly("exit code after SIGTERM", max(abs(server["code"]), abs(embedded["code"])), "", 0),
    ]


def _once(folder: Path, records: int, server: bool) -> dict[str, float]:
    folder.mkdir()
    with start_broker(folder / "broker") as broker, _server(folder, server) as dsn:
        ensure_topic(broker.bootstrap, TOPIC, 2)
        config, port = _config(folder, broker.bootstrap, dsn)
        _publish(broker.bootstrap, records)
        agent = subprocess.Popen([sys.executable, "-m", "agent", "run", "--config", str(config)], cwd=ROOT)
        try:
            _wait_for_records(port, records)
            process = psutil.Process(agent.pid)
            rss = process.memory_info().rss / MB
            torch = sum("torch" in Path(region.path).name for region in process.memory_maps())
            began = time.monotonic()
            agent.send_signal(signal.SIGTERM)
            code = agent.wait(PATIENCE_S)
            return {"rss_mb": rss, "torch": torch, "stop_s": time.monotonic() - began, "code": code}
        finally:
            if agent.poll() is None:
                agent.kill()


@contextmanager
def _server(folder: Path, wanted: bool) -> Iterator[str]:
    """A ClickHouse server in a process of its own, or the address of an embedded engine."""
    if not wanted:
        yield f"chdb://{folder / 'store'}"
        return
    port = free_port()
    (folder / "server").mkdir()
    command = [sys.executable, "-m", "tests.clickhouse_http", str(folder / "server"), str(port)]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        _wait_for(f"http://127.0.0.1:{port}/ping")
        yield f"clickhouse://default@127.0.0.1:{port}/gapwatch"
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def _config(folder: Path, bootstrap: str, dsn: str) -> tuple[Path, int]:
    port = free_port()
    (folder / "key").write_text(ROUTING_KEY)
    names = sorted(path.stem for path in (HELPDESK / "traffic").glob("*.jsonl"))
    adapters = [{"name": name, "path": str(HELPDESK / "adapters" / name)} for name in names]
    kafka = {
        "bootstrap_servers": [bootstrap],
        "topic": TOPIC,
        "auto_offset_reset": "earliest",
        "session_timeout_ms": 3000,
    }
    settings = {
        "models": [{"name": "smollm2", "path": "not-loaded", "replay": False, "adapters": adapters}],
        "kafka": kafka,
        "sampling": {"rate": 0.05, "per_adapter_per_minute": 1000},
        "alerts": {"pagerduty": {"routing_key_file": str(folder / "key"), "url": "http://127.0.0.1:9"}},
        "clickhouse": {"dsn": dsn},
        "telemetry": {"prometheus_port": port, "control_port": free_port()},
        "state_dir": str(folder / "state"),
        "probes": {"golden_dir": str(folder / "golden"), "cache_dir": str(folder / "cache")},
    }
    path = folder / "gapwatch.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path, port


def _publish(bootstrap: str, records: int) -> None:
    traffic = DemoTraffic(HELPDESK / "traffic", "smollm2", lambda _: None)
    bodies = traffic.records()
    with publisher(bootstrap, TOPIC) as out:
        for _ in range(records // 500):
            out.send([Outgoing(*next(bodies)) for _ in range(500)])


def _wait_for_records(port: int, records: int) -> None:
    """Wait until the agent's metrics say that all are read, and then a moment for the store."""
    give_up = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up:
        if _read(port) >= records:
            time.sleep(3.0)
            return
        time.sleep(0.2)
    raise TimeoutError(f"{_read(port)} of {records} records read")


def _read(port: int) -> float:
    try:
        page = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=5).text
    except httpx.TransportError:
        return 0.0
    lines = [line for line in page.splitlines() if line.startswith("gapwatch_records_total") and 'kind="read"' in line]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def _wait_for(url: str) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up:
        try:
            if httpx.get(url, timeout=1).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise TimeoutError(url)
