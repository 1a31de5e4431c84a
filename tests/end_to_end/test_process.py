"""``gapwatch run`` as its own process, with nothing to talk to: it lives, says so, and ends when told."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from agent.demo.broker import free_port

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60.0


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    port = free_port()
    (tmp_path / "key").write_text("k" * 32)
    settings = {
        "models": [{"name": "m", "path": "./base", "adapters": [{"name": "a", "path": "adapters/a"}]}],
        "kafka": {"bootstrap_servers": ["127.0.0.1:9"], "topic": "t"},
        "clickhouse": {"dsn": "clickhouse://default@127.0.0.1:9/gapwatch"},
        "alerts": {"pagerduty": {"routing_key_file": "key", "url": "http://127.0.0.1:9"}},
        "probes": {"every": "1s", "golden_dir": "golden", "cache_dir": "cache"},
        "telemetry": {"prometheus_port": port, "control_port": free_port()},
        "state_dir": "state",
    }
    path = tmp_path / "gapwatch.yaml"
    path.write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "agent", "run", "--config", str(path)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        yield process, port
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def get(port: int, path: str) -> httpx.Response | None:
    try:
        return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=5)
    except httpx.TransportError:
        return None


def wait_for(port: int, path: str, holds: str) -> str:
    give_up = time.monotonic() + PATIENCE_S
    text = ""
    while time.monotonic() < give_up:
        reply = get(port, path)
        text = reply.text if reply else ""
        if holds in text:
            return text
        time.sleep(0.1)
    raise AssertionError(f"{path} never said {holds!r}; last: {text[-2000:]}")


def test_it_starts_with_everything_away_says_what_is_away_and_ends_on_sigterm(
    agent: tuple[subprocess.Popen[bytes], int],
) -> None:
    process, port = agent
    wait_for(port, "/livez", "last turn")
    # One adapter without a golden record is a visible state, not silence: 3 is unmonitorable.
    wait_for(port, "/metrics", 'gapwatch_status{subject="a",subject_kind="adapter"} 3.0')
    page = wait_for(port, "/metrics", 'gapwatch_sink_ok{sink="clickhouse"} 0.0')
    assert "gapwatch_kafka_ok 0.0" in page
    ready = get(port, "/readyz")
    assert ready is not None
    assert ready.status_code == 503
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 0


def test_state_and_outbox_lie_where_the_configuration_says(
    agent: tuple[subprocess.Popen[bytes], int], tmp_path: Path
) -> None:
    process, port = agent
    # Unmonitorable for three rounds is told; PagerDuty is away, so the event waits on disk.
    wait_for(port, "/metrics", 'gapwatch_notices_total{kind="trigger",reason="cannot_tell"} 1.0')
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 0
    assert (tmp_path / "state" / "monitor.json").is_file()
    assert list((tmp_path / "state" / "outbox").iterdir())
