"""What goes wrong inside a serving engine pages, with nothing but its address, and golden records made in process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from agent.records import Notice, NoticeKind, NoticeReason
from detectors.records import Cause, Reason, Status, Verdict
from probes.runners import memory
from probes.runners.served import Config, Runner
from tests.end_to_end.assembled import Assembled
from tests.end_to_end.world import ADAPTERS, Line, World
from tests.serving_engines.shim import Server, serving
from tests.serving_engines.toy_engine import ToyEngine

PATIENCE_S = 60.0


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(ToyEngine(adapters={name: f"{name}-v1" for name in ADAPTERS})) as running:
        yield running


@pytest.fixture
def world(tmp_path: Path, goldens: Path, server: Server) -> Iterator[World]:
    """An agent in memory but for its runner, which asks the server over HTTP, and whose budget of a minute is no
    minute's wait here."""
    limits = {"requests_a_minute": 10**6, "tokens_a_minute": 10**9}
    runner = Runner(Config({"url": server.url}, server.engine.base, dict.fromkeys(ADAPTERS, ""), limits=limits))
    with World(tmp_path, goldens, line=Line(runner=cast(memory.Runner, runner))) as opened:
        yield opened


def last(world: World, subject: str) -> Verdict:
    return [verdict for verdict in world.sink.verdicts if verdict.subject == subject][-1]


def pages(world: World) -> list[Notice]:
    return [notice for notice in world.sink.notices if notice.kind is NoticeKind.TRIGGER]


def test_an_adapter_that_the_engine_does_not_apply_pages_by_its_cause_and_alone_and_ends(
    world: World, server: Server
) -> None:
    for _ in range(3):
        world.turn_round()
    assert world.sink.notices == []
    for name in ADAPTERS:
        healthy = last(world, name)
        assert healthy.status is Status.HEALTHY and healthy.retention is not None
        assert abs(healthy.retention.mean - 1) < 1e-4

    server.engine.faults.of_adapter["alpha"] = "not_applied"
    world.turn_round()
    (page,) = pages(world)
    assert (page.verdict.subject, page.verdict.cause) == ("alpha", Cause.ADAPTER_NOT_APPLIED)
    assert page.verdict.retention is not None and abs(page.verdict.retention.mean) < 1e-4
    assert all(last(world, name).status is Status.HEALTHY for name in ("beta", "gamma"))

    server.engine.faults.of_adapter.clear()
    for _ in range(2):
        world.turn_round()
    assert [notice.reason for notice in world.sink.notices] == [NoticeReason.DEGRADED, NoticeReason.RECOVERED]
    assert last(world, "alpha").reason is Reason.RESOLVED


@pytest.mark.parametrize(
    ("fault", "cause"), [("scale:0.5", Cause.WRONG_STRENGTH), ("wrong_adapter:beta", Cause.WRONG_ADAPTER)]
)
def test_other_faults_inside_the_engine_are_named(world: World, server: Server, fault: str, cause: Cause) -> None:
    world.turn_round()
    server.engine.faults.of_adapter["alpha"] = fault
    world.turn_round()
    assert [(page.verdict.subject, page.verdict.cause) for page in pages(world)] == [("alpha", cause)]


def test_an_engine_that_is_away_or_no_more_lists_an_adapter_is_no_fault_of_an_adapter(
    world: World, server: Server
) -> None:
    world.turn_round()
    server.settings.ready = False
    world.turn_round()
    assert {last(world, name).reason for name in ADAPTERS} == {Reason.ENGINE_AWAY}
    server.settings.ready = True
    world.turn_round()
    assert {last(world, name).status for name in ADAPTERS} == {Status.HEALTHY}
    del server.engine.adapters["beta"]
    world.turn_round()
    assert last(world, "beta").reason is Reason.NOT_SERVED and "does not list it" in world.rounds[-1].members[1].detail
    assert last(world, "alpha").status is Status.HEALTHY
    assert world.sink.notices == []


@pytest.mark.parametrize("own", [{"role": "all"}, {}], ids=["all", "no role"])
def test_an_agent_whose_configuration_names_an_address_alone_pages_without_a_model_library(
    tmp_path: Path, goldens: Path, server: Server, own: dict[str, Any]
) -> None:
    limits = {"requests_per_minute": 10**6, "tokens_per_minute": 10**9}
    served = {"url": server.url, "base": server.engine.base, "every": 1.0, "limits": limits}
    settings = {
        "models": [{"name": "tiny", "served": served, "adapters": [{"name": name} for name in ADAPTERS]}],
        "probes": {"golden_dir": str(goldens), "seed": 5},
        "clickhouse": {"dsn": "clickhouse://default@127.0.0.1:9/gapwatch"},
        "telemetry": {"prometheus_port": 0, "control_port": 0},
        "state_dir": "state",
    } | own
    (tmp_path / "gapwatch.yaml").write_text(yaml.safe_dump(settings))
    with ExitStack() as opened:
        agent = Assembled(tmp_path / "gapwatch.yaml", opened, PATIENCE_S)
        agent.until(lambda: bool(agent.rounds))
        assert agent.sink.notices == []
        server.engine.faults.of_adapter["alpha"] = "not_applied"
        agent.until(lambda: bool(agent.sink.notices))
        (page,) = agent.sink.notices
        assert (page.kind, page.verdict.subject) == (NoticeKind.TRIGGER, "alpha")
        assert agent.models._life is not None
        mapped = Path(f"/proc/{agent.models._life.process.pid}/maps").read_text()
        assert "numpy" in mapped and "libtorch" not in mapped
