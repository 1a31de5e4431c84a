"""An agent that fails, hangs, or is told something else while it runs, under a clock that is set by hand."""

from __future__ import annotations

import threading
from collections.abc import Iterator, MutableMapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from structlog.testing import capture_logs

from agent.clock import HandClock
from agent.config import Config, load
from agent.errors import Refused
from agent.health import STALE_S, Routes, no_routes
from agent.supervision.config_file import LOOK_S, RETRY_S, ConfigFile
from agent.supervision.supervisor import GOOD_S, LONGEST_DELAY_S, Supervisor
from detectors.errors import DetectorError

BASE: dict[str, Any] = {"models": [{"name": "m", "path": "./base", "adapters": [{"name": "a", "path": "adapters/a"}]}]}
UNEXPECTED = [KeyError("x"), DetectorError("y"), ModuleNotFoundError("No module named 'z'"), MemoryError()]


@dataclass
class Script:
    """What happens next. assembling, opening, stepping, closing: raised there, once each, first one first."""

    assembling: list[Exception] = field(default_factory=list)
    opening: list[Exception] = field(default_factory=list)
    stepping: list[Exception] = field(default_factory=list)
    closing: list[Exception] = field(default_factory=list)
    happened: list[str] = field(default_factory=list)

    def do(self, what: str, faults: list[Exception]) -> None:
        self.happened.append(what)
        if faults:
            raise faults.pop(0)


class Scripted:
    """An agent whose every step is in the script."""

    def __init__(self, script: Script, config: Config) -> None:
        script.do(f"assemble {config.cluster}", script.assembling)
        self._script = script
        self.routes: Routes = replace(no_routes(), parts=lambda: {"kafka": (True, config.cluster)})

    def open(self, opened: ExitStack) -> None:
        opened.callback(self._script.do, "close", self._script.closing)
        self._script.do("open", self._script.opening)

    def step(self) -> bool:
        self._script.do("step", self._script.stepping)
        return True


@dataclass
class Stage:
    path: Path
    clock: HandClock
    script: Script
    supervisor: Supervisor

    def write(self, **over: Any) -> None:
        self.path.write_text(yaml.safe_dump(BASE | over))

    def steps(self, n: int = 1, apart_s: float = 0.0) -> list[str]:
        self.script.happened.clear()
        for _ in range(n):
            self.clock.advance(apart_s)
            self.supervisor.step()
        return self.script.happened

    def part(self, name: str) -> tuple[bool, str]:
        return self.supervisor.health.routes.parts()[name]

    def page(self) -> list[str]:
        routes = self.supervisor.health.routes
        return routes.telemetry.page(routes.parts()).decode().splitlines()


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[MutableMapping[str, Any]]]:
    with capture_logs() as lines:
        yield lines


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    clock, script, path = HandClock(), Script(), tmp_path / "gapwatch.yaml"
    file = ConfigFile(path, load, clock)
    made = Stage(path, clock, script, Supervisor(file, lambda config: Scripted(script, config), clock, (0, 0)))
    made.write()
    return made


@pytest.fixture
def served(stage: Stage) -> Iterator[Stage]:
    stage.supervisor.health.open()
    yield stage
    stage.supervisor.health.close()


def get(stage: Stage, path: str) -> httpx.Response:
    return httpx.get(f"http://127.0.0.1:{stage.supervisor.health.public_port}{path}", timeout=10)


@pytest.mark.parametrize("error", UNEXPECTED, ids=repr)
@pytest.mark.parametrize("where", ["assembling", "opening", "stepping"])
def test_an_unexpected_error_is_a_state_and_the_agent_starts_again(
    stage: Stage, where: str, error: Exception, logged: list[MutableMapping[str, Any]]
) -> None:
    getattr(stage.script, where).append(error)
    stage.steps()
    ok, words = stage.part("agent")
    said = f"{type(error).__name__} (the log has the traceback)"
    assert not ok and words == f"{said}; starts again in 1 s", "its message may hold what a tenant wrote"
    assert [line["exc_info"] for line in logged if line["event"] == "agent_failed"] == [error], "with its traceback"
    assert stage.script.happened.count("open") == stage.script.happened.count("close"), "what was opened is closed"
    assert 'gapwatch_part_ok{part="agent"} 0.0' in stage.page() and "gapwatch_restarts_total 1.0" in stage.page()
    assert stage.steps(apart_s=0.9) == []
    assert stage.steps(apart_s=0.1) == ["assemble default", "open", "step"]
    ok, words = stage.part("agent")
    assert ok and words == f"running; restarts: 1, the last after {said}"
    assert 'gapwatch_part_ok{part="agent"} 1.0' in stage.page() and "gapwatch_restarts_total 1.0" in stage.page()


def test_starts_come_at_doubled_intervals_up_to_a_minute_and_after_a_good_run_at_once(stage: Stage) -> None:
    stage.script.assembling += [KeyError("x")] * 9
    waits = []
    for _ in range(9):
        stage.steps()
        waits.append(float(stage.part("agent")[1].split()[-2]))
        stage.clock.advance(waits[-1])
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, LONGEST_DELAY_S]
    stage.steps()
    stage.script.stepping.append(KeyError("soon"))
    stage.steps(apart_s=GOOD_S - 1)
    assert stage.part("agent")[1] == "KeyError (the log has the traceback); starts again in 60 s"
    stage.steps(apart_s=60)
    stage.script.stepping.append(KeyError("late"))
    stage.steps(apart_s=GOOD_S)
    assert stage.part("agent")[1] == "KeyError (the log has the traceback); starts again in 1 s"


def test_waiting_for_a_configuration_is_progress_and_the_first_usable_one_starts_the_agent(served: Stage) -> None:
    served.path.unlink()
    for _ in range(5):
        served.steps(apart_s=STALE_S - 1)
        assert get(served, "/livez").status_code == 200
    reply = get(served, "/readyz")
    assert reply.status_code == 503
    assert "no such file" in reply.json()["config"][1]
    assert reply.json()["agent"] == [False, "waits for a configuration that can be used"]
    assert 'gapwatch_part_ok{part="config"} 0.0' in get(served, "/metrics").text.splitlines()
    served.write()
    assert served.steps(apart_s=LOOK_S) == ["assemble default", "open", "step"]
    reply = get(served, "/readyz")
    assert reply.status_code == 200 and reply.json()["kafka"] == [True, "default"]
    assert "gapwatch_config_loaded_at_seconds 1.7" in get(served, "/metrics").text


def test_a_loop_that_hangs_is_not_alive(served: Stage) -> None:
    hangs, let_go = threading.Event(), threading.Event()

    def hang() -> bool:
        hangs.set()
        return let_go.wait(60)

    served.steps()
    served.supervisor._agent.step = hang  # type: ignore[union-attr, method-assign]
    loop = threading.Thread(target=served.supervisor.step)
    loop.start()
    try:
        assert hangs.wait(60)
        served.clock.advance(STALE_S)
        assert get(served, "/livez").status_code == 503
    finally:
        let_go.set()
        loop.join()
    assert get(served, "/livez").status_code == 200


def test_another_configuration_closes_the_agent_and_starts_it_from_that(served: Stage) -> None:
    served.steps()
    port = served.supervisor.health.public_port
    served.write(cluster="other")
    assert served.steps(2, LOOK_S) == ["step", "close", "assemble other", "open", "step"]
    assert served.supervisor.health.public_port == port and get(served, "/livez").status_code == 200
    assert served.part("kafka") == (True, "other") and served.part("agent") == (True, "running")


def test_a_refused_change_leaves_the_agent_alone(stage: Stage) -> None:
    stage.steps()
    stage.write(cluster="other", kafak={})
    assert stage.steps(3, LOOK_S) == ["step"] * 3
    ok, words = stage.part("config")
    assert not ok and "kafak: saw this key" in words and "stays in force" in words


def test_a_change_from_which_no_agent_can_be_assembled_brings_the_former_agent_back(stage: Stage) -> None:
    stage.steps()
    stage.write(cluster="other")
    stage.script.assembling.append(Refused("probes.threads", 0, "more"))
    stage.steps(2, LOOK_S)
    assert stage.steps() == ["assemble default", "open", "step"]
    ok, words = stage.part("config")
    assert not ok and "probes.threads: saw 0, wanted more; the former one" in words
    assert stage.part("agent") == (True, "running")


def test_the_first_configuration_that_cannot_be_assembled_is_tried_again(stage: Stage) -> None:
    stage.script.assembling.append(Refused("probes.threads", 0, "more"))
    stage.steps()
    assert "probes.threads" in stage.part("config")[1]
    assert stage.steps(apart_s=RETRY_S) == ["assemble default", "open", "step"]
    assert stage.part("config")[0]


def test_another_configuration_does_not_wait_for_the_next_try_of_the_former(stage: Stage) -> None:
    stage.script.assembling += [KeyError("x")] * 4
    for _ in range(4):
        stage.steps(apart_s=LONGEST_DELAY_S)
    stage.write(cluster="other")
    assert "assemble other" in stage.steps(2, LOOK_S)


def test_an_error_while_closing_ends_nothing(stage: Stage) -> None:
    stage.script.closing.append(OSError("disk"))
    stage.script.stepping.append(KeyError("x"))
    stage.steps()
    assert stage.steps(apart_s=1.0) == ["assemble default", "open", "step"]


def test_the_stop_event_ends_it_while_it_waits_and_while_it_runs(stage: Stage) -> None:
    stop = threading.Event()
    stop.set()
    stage.supervisor.run(stop)
    assert stage.script.happened == []
    stop.clear()
    turning = threading.Thread(target=stage.supervisor.run, args=(stop,))
    turning.start()
    while "step" not in stage.script.happened:
        pass
    stop.set()
    turning.join(60)
    assert not turning.is_alive() and stage.script.happened[-1] == "close"
