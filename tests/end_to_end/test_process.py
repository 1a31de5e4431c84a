"""``gapwatch run`` as its own process, with nothing to talk to: it lives whatever it is given, says so, and ends when
told."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from agent.demo.broker import free_port

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60.0


@dataclass
class Running:
    """One process of the agent. ``start`` it; then ``port`` answers."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def path(self) -> Path:
        return self.folder / "gapwatch.yaml"

    def write(self, **over: Any) -> None:
        self.path.write_text(yaml.safe_dump(self.settings() | over))

    def settings(self) -> dict[str, Any]:
        """A configuration of which nothing exists: no broker, no server, no base."""
        return {
            "models": [{"name": "m", "path": "./base", "adapters": [{"name": "a", "path": "adapters/a"}]}],
            "kafka": {"bootstrap_servers": ["127.0.0.1:9"], "topic": "t"},
            "clickhouse": {"dsn": "clickhouse://default@127.0.0.1:9/gapwatch"},
            "alerts": {"pagerduty": {"routing_key_file": "key", "url": "http://127.0.0.1:9"}},
            "probes": {"every": "1s", "golden_dir": "golden", "cache_dir": "cache"},
            "telemetry": {"prometheus_port": self.port},
            "state_dir": "state",
        }

    def start(self, *words: str, **variables: str) -> None:
        command = [sys.executable, "-m", "agent", "run", "--config", str(self.path), *words]
        environment = os.environ | variables
        log = (self.folder / "log").open("wb")
        self.process = subprocess.Popen(command, cwd=ROOT, stderr=log, env=environment)
        log.close()

    def get(self, path: str) -> httpx.Response | None:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=5)
        except httpx.TransportError:
            return None

    def wait_for(self, path: str, holds: str | Callable[[httpx.Response], bool]) -> str:
        give_up = time.monotonic() + PATIENCE_S
        text = ""
        while time.monotonic() < give_up:
            reply = self.get(path)
            text = reply.text if reply else ""
            if reply is not None and (holds in text if isinstance(holds, str) else holds(reply)):
                return text
            time.sleep(0.1)
        raise AssertionError(f"{path} never said {holds!r}; last: {text[-2000:]}")

    def part(self, name: str, ok: bool, words: str = "") -> str:
        """Wait until /readyz says that of a part."""

        def says(reply: httpx.Response) -> bool:
            part = reply.json().get(name)
            return part is not None and part[0] is ok and words in part[1]

        return self.wait_for("/readyz", says)

    def ends(self) -> int:
        assert self.process is not None and self.process.poll() is None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Running]:
    (tmp_path / "key").write_text("k" * 32)
    running = Running(tmp_path)
    running.write()
    yield running
    if running.process is not None and running.process.poll() is None:
        running.process.kill()
        running.process.wait()


def test_it_starts_with_everything_away_says_what_is_away_and_ends_on_sigterm(agent: Running) -> None:
    agent.start()
    agent.wait_for("/livez", "last turn")
    # One adapter without a golden record is a visible state, not silence: 3 is unmonitorable.
    agent.wait_for("/metrics", 'gapwatch_status{subject="a",subject_kind="adapter"} 3.0')
    page = agent.wait_for("/metrics", 'gapwatch_sink_ok{sink="clickhouse"} 0.0')
    assert "gapwatch_kafka_ok 0.0" in page and 'gapwatch_part_ok{part="kafka"} 0.0' in page
    assert 'gapwatch_part_ok{part="config"} 1.0' in page and 'gapwatch_part_ok{part="agent"} 1.0' in page
    ready = agent.get("/readyz")
    assert ready is not None
    assert ready.status_code == 503
    assert agent.ends() == 0


def test_state_and_outbox_lie_where_the_configuration_says(agent: Running) -> None:
    agent.start()
    # Unmonitorable for three rounds is told; PagerDuty is away, so the event waits on disk.
    agent.wait_for("/metrics", 'gapwatch_notices_total{kind="trigger",reason="cannot_tell"} 1.0')
    assert agent.ends() == 0
    assert (agent.folder / "state" / "monitor.json").is_file()
    assert list((agent.folder / "state" / "outbox").iterdir())


def unknown_key(agent: Running) -> str:
    agent.write(kafak={})
    return "kafak: saw this key"


def broken_yaml(agent: Running) -> str:
    agent.path.write_text("models: [")
    return "wanted valid YAML"


def no_file(agent: Running) -> str:
    agent.path.unlink()
    return "no such file"


def unknown_detector(agent: Running) -> str:
    agent.write(detectors={"no_such": {}})
    return "detectors.no_such"


BAD_FILES = [unknown_key, broken_yaml, no_file, unknown_detector]


@pytest.mark.parametrize("spoil", BAD_FILES)
def test_a_bad_configuration_is_a_state_until_it_is_mended_and_a_change_to_it_is_refused(
    agent: Running, spoil: Callable[[Running], str]
) -> None:
    """At the start, and again while the agent runs; all in one process."""
    why = spoil(agent)
    agent.start("--health-port", str(agent.port))
    agent.wait_for("/livez", "last turn")
    agent.part("config", False, why)
    agent.wait_for("/metrics", 'gapwatch_part_ok{part="config"} 0.0')
    agent.write()
    agent.part("config", True)
    agent.part("agent", True, "running")
    agent.part("kafka", False)
    spoil(agent)
    agent.part("config", False, "stays in force")
    agent.part("agent", True, "running")
    agent.wait_for("/livez", "last turn")
    assert agent.ends() == 0


def test_sigterm_ends_it_while_it_waits_for_a_configuration(agent: Running) -> None:
    agent.path.unlink()
    agent.start("--health-port", str(agent.port))
    agent.part("agent", False, "waits for a configuration")
    assert agent.ends() == 0
    assert "stopped_late" not in (agent.folder / "log").read_text()


def test_sigterm_ends_it_while_a_start_hangs(agent: Running) -> None:
    """A pipe that nobody writes into stands for a network file system that is away."""
    (agent.folder / "state").mkdir()
    os.mkfifo(agent.folder / "state" / "monitor.json")
    agent.write(shutdown_budget="1s")
    agent.start()
    agent.part("agent", False, "starting")
    agent.wait_for("/livez", "last turn")
    assert agent.ends() == 0


def test_files_that_are_missing_are_a_state_and_the_rest_runs(agent: Running) -> None:
    model = agent.settings()["models"][0]
    model["adapters"][0]["canaries"] = "canaries.jsonl"
    agent.write(models=[model])
    (agent.folder / "key").unlink()
    agent.start()
    text = agent.part("config", False, "routing_key_file: saw no file of that name")
    assert "models.0.adapters.0.canaries" in text
    agent.wait_for("/metrics", 'gapwatch_status{subject="a",subject_kind="adapter"} 3.0')
    (agent.folder / "key").write_text("k" * 32)
    (agent.folder / "canaries.jsonl").touch()
    agent.part("config", True)
    assert agent.ends() == 0


def test_a_port_that_is_taken_is_a_state_on_the_other_port(agent: Running) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        control_port = taken.getsockname()[1]
        agent.write(telemetry={"prometheus_port": agent.port, "control_port": control_port})
        agent.start()
        agent.part("health", False, f"port {control_port}: Address already in use")
        taken.close()
        agent.part("health", True)
    assert agent.ends() == 0


def test_an_adapter_that_the_file_gains_is_watched_without_a_restart_of_the_process(agent: Running) -> None:
    agent.start()
    agent.wait_for("/metrics", 'gapwatch_status{subject="a",subject_kind="adapter"} 3.0')
    adapters = [{"name": name, "path": f"adapters/{name}"} for name in ("a", "b")]
    agent.write(models=[{"name": "m", "path": "./base", "adapters": adapters}])
    page = agent.wait_for("/metrics", 'gapwatch_status{subject="b",subject_kind="adapter"} 3.0')
    assert "gapwatch_restarts_total 0.0" in page
    assert agent.ends() == 0


@pytest.mark.parametrize("value", ["tcp://10.0.0.1:80", "-1", "99999"])
def test_variables_that_cannot_be_used_are_ignored(agent: Running, value: str) -> None:
    """Of a Service named gapwatch-health Kubernetes puts an address into GAPWATCH_HEALTH_PORT."""
    agent.start(GAPWATCH_HEALTH_PORT=value, GAPWATCH_LOG="loud")
    agent.wait_for("/livez", "last turn")
    assert agent.ends() == 0
    log = (agent.folder / "log").read_text()
    assert "health_port_ignored" in log and "log_level_ignored" in log


def test_the_health_port_of_the_environment_goes_before_that_of_the_file(agent: Running) -> None:
    agent.write(telemetry={"prometheus_port": 1})
    agent.start(GAPWATCH_HEALTH_PORT=str(agent.port))
    agent.part("config", True)
    assert agent.ends() == 0
