"""An assembled agent whose configuration file changes while it runs, its models in memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.app import App
from agent.assemble import assemble
from agent.clock import Clock
from agent.config import load
from agent.records import Notice
from agent.sinks.memory import Sink as MemorySink
from agent.supervision.config_file import ConfigFile
from agent.supervision.supervisor import Supervisor
from agent.worker.watched_bases import runner_of
from detectors.records import Status
from tests.end_to_end.world import ADAPTERS, accept

PATIENCE_S = 60.0


def write(path: Path, *adapters: str, **over: Any) -> None:
    """Canaries alone, a round a second. Paths seed the memory runner; nothing has to exist there."""
    named = [{"name": name, "path": f"/models/{name}"} for name in adapters]
    settings = {
        "models": [{"name": "tiny", "path": "/models/base", "adapters": named}],
        "probes": {"runner": "memory", "golden_dir": "golden", "every": "1s", "seed": 5},
        "clickhouse": {"dsn": "clickhouse://default@127.0.0.1:9/gapwatch"},
        "state_dir": "state",
        "cluster": "test",
    }
    if "faults" in over:
        settings["probes"] |= {"runner_settings": {"faults": over.pop("faults")}}  # type: ignore[operator]
    path.write_text(yaml.safe_dump(settings | over))


class Watched:
    """A supervisor turned by hand, and what its agents have found one after the other."""

    def __init__(self, path: Path) -> None:
        self.sink = MemorySink()
        clock = Clock()
        file = ConfigFile(path, load, clock)
        self.supervisor = Supervisor(file, lambda config: App(assemble(config, (self.sink,))), clock, (0, 0))

    def latest(self, adapter: str) -> Status | None:
        return next((v.status for v in reversed(self.sink.verdicts) if v.subject == adapter), None)

    def turn_until(self, happened: Callable[[], bool]) -> None:
        give_up = time.monotonic() + PATIENCE_S
        while not happened():
            assert time.monotonic() < give_up, self.supervisor.health.routes.parts()
            self.supervisor.step()
            time.sleep(0.01)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "gapwatch.yaml"
    write(path, *ADAPTERS)
    config = load(path)
    for name in ADAPTERS:
        accept(config.probes.golden_dir, name, runner_of(config, config.models[0], golden=False))
    return path


@pytest.fixture
def watched(path: Path) -> Iterator[Watched]:
    watched = Watched(path)
    yield watched
    watched.supervisor._take_down()


def test_a_new_adapter_is_watched_and_an_open_incident_stays_open(watched: Watched, path: Path) -> None:
    write(path, "alpha", faults={"alpha": "not_applied"})
    watched.turn_until(lambda: watched.latest("alpha") is Status.DEGRADED)
    assert watched.latest("beta") is None
    write(path, "alpha", "beta", faults={"alpha": "not_applied"})
    watched.turn_until(lambda: watched.latest("beta") is Status.HEALTHY)
    assert watched.latest("alpha") is Status.DEGRADED
    keys = [notice.dedup_key for notice in watched.sink.of(Notice)]
    assert len(set(keys)) == 1, "paged once, under one key, over the change"


def test_a_change_that_is_refused_costs_no_round(watched: Watched, path: Path) -> None:
    write(path, "alpha")
    watched.turn_until(lambda: watched.latest("alpha") is Status.HEALTHY)
    write(path, "alpha", "beta", kafak={})
    watched.turn_until(lambda: not watched.supervisor.health.routes.parts()["config"][0])
    before = len(watched.sink.verdicts)
    watched.turn_until(lambda: len(watched.sink.verdicts) > before)
    assert watched.latest("beta") is None and watched.supervisor.restarts == 0
