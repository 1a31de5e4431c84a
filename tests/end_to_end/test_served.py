"""What goes wrong inside a serving engine pages, with nothing but its address, and golden records made in process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from agent.records import Notice, NoticeKind, NoticeReason
from detectors import on_call_text
from detectors.canaries.mode_gap import LEAST_FLOOR
from detectors.records import Cause, FilesReplay, FilesState, KnownBy, Mode, Reason, ShareOf, Status, Verdict
from probes.canaries.watched_files import WatchedFiles
from probes.golden.archive import load, newest, save
from probes.golden.record import Golden
from probes.runners import memory
from probes.runners.served import Config, Runner
from probes.scoring.scoring_job import ScoringOptions
from tests.clickhouse_http import ClickHouseServer
from tests.end_to_end.assembled import Assembled
from tests.end_to_end.test_traffic_in_memory import serve
from tests.end_to_end.world import ADAPTERS, EVERY_S, Line, World, accept, new_runner
from tests.serving_engines.shim import Server, serving
from tests.serving_engines.toy_engine import ToyEngine

PATIENCE_S = 60.0


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(ToyEngine(adapters={name: f"{name}-v1" for name in ADAPTERS})) as running:
        yield running


def engine(server: Server) -> memory.Runner:
    """It has no users who would wait for what is asked in a minute."""
    limits = {"tokens_a_minute": 10**9, "requests_a_minute": 10**9}
    config = Config({"url": server.url}, server.engine.base, dict.fromkeys(ADAPTERS, ""), limits=limits)
    return cast(memory.Runner, Runner(config))


@pytest.fixture
def world(tmp_path: Path, goldens: Path, server: Server) -> Iterator[World]:
    """An agent in memory but for its runner, which asks the server over HTTP."""
    with World(tmp_path, goldens, line=Line(runner=engine(server))) as opened:
        yield opened


class BesideItsFiles(World):
    """An agent whose engine answers the canaries, with the files in the same pod. ``in_files`` puts a fault in them."""

    def __init__(self, folder: Path, goldens: Path, server: Server, scoring: ScoringOptions | None = None) -> None:
        self.files = WatchedFiles(new_runner(), ADAPTERS, EVERY_S)
        super().__init__(folder, goldens, line=Line(runner=engine(server), files=self.files, scoring=scoring))
        self.runner = cast(memory.Runner, self.files.runner)  # responses are written as it would write them

    def in_files(self, fault: str) -> None:
        self.runner.inject("alpha", fault)

    def turn_both(self) -> None:
        """A round of the engine, and one of the files after it."""
        before = len(self.sink.of(FilesReplay))
        self.turn_round()
        self.turn_until(lambda: len(self.sink.of(FilesReplay)) > before)


@pytest.fixture
def beside(tmp_path: Path, goldens: Path, server: Server) -> Iterator[BesideItsFiles]:
    made = BesideItsFiles(tmp_path, goldens, server, ScoringOptions())
    with made:
        yield made


def last(world: World | Assembled, subject: str) -> Verdict:
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


def test_a_cache_that_a_load_in_place_leaves_stale_pages_as_that_and_ends_with_it(
    tmp_path: Path, goldens: Path, server: Server
) -> None:
    for name in ADAPTERS:
        save(with_floors(load(goldens, str(newest(goldens, name)))), tmp_path / "goldens")
    server.engine.faults.stale_cache = True
    server.engine.reload("alpha", "alpha-v0")
    for canary in load(goldens, str(newest(goldens, "alpha"))).canaries:  # users ask for such things
        server.engine.generated("alpha", canary.prompt, 1)
    with World(tmp_path / "own", tmp_path / "goldens", line=Line(runner=engine(server))) as world:
        world.turn_round()
        (former,) = pages(world)
        assert former.verdict.cause not in (Cause.SHARED_CACHE, Cause.NONE), "a former version is at fault in any mode"
        server.engine.reload("alpha", "alpha-v1")
        for _ in range(2):
            world.turn_round()
        stale = last(world, "alpha")
        assert (stale.status, stale.cause) == (Status.DEGRADED, Cause.SHARED_CACHE)
        assert "where the engine's cache holds the beginning of its prompt" in stale.explanation
        assert stale.retention is not None and stale.retention.mean == pytest.approx(1.0, abs=1e-3)
        server.engine.restart()
        for _ in range(6):
            world.turn_round()
        assert last(world, "alpha").status is Status.HEALTHY
        assert {notice.verdict.subject for notice in world.sink.notices} == {"alpha"}


def with_floors(golden: Golden) -> Golden:
    """The record as an enrolment through the engine would have left it."""
    floors = dict.fromkeys(Mode, LEAST_FLOOR)
    canaries = (replace(c, reference=replace(c.reference, mode_floors=floors)) for c in golden.canaries)
    return replace(golden, canaries=tuple(canaries))


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


def test_a_fault_of_the_files_is_told_from_one_of_the_engine_and_pages_only_where_it_is_served(
    beside: BesideItsFiles, server: Server
) -> None:
    def after(in_files: str, in_engine: str) -> Verdict:
        """The verdict once both have answered: of the files, which come second in a round, it says so in the next."""
        beside.in_files(in_files)
        server.engine.faults.of_adapter = {} if in_engine == "none" else {"alpha": in_engine}
        beside.turn_both()
        beside.turn_round()
        verdict = last(beside, "alpha")
        assert verdict.answered_by.startswith("vllm 0.33") and verdict.files.by is KnownBy.THIS_POD
        assert "cause not refined" not in verdict.explanation and "not replayed" not in verdict.explanation
        return verdict

    healthy = after("none", "none")
    assert healthy.files.state is FilesState.AS_ACCEPTED and "files" not in healthy.explanation
    held = after("not_applied", "none")
    assert held.status is Status.HEALTHY and held.files.state is FilesState.NOT_AS_ACCEPTED
    assert "the engine answers as accepted and the files do not (replayed in this pod at" in held.explanation
    assert pages(beside) == []
    both = after("not_applied", "not_applied")
    assert "the files do not answer as accepted either (replayed in this pod at" in both.explanation
    alone = after("none", "not_applied")
    assert "the files are as accepted (replayed in this pod at" in alone.explanation
    assert "and the engine serves the base" in alone.explanation
    (page,) = pages(beside)
    assert page.verdict.subject == "alpha" and page.details["canaries answered by"] == page.verdict.answered_by

    for _ in range(20):  # in which of its rounds a response is scored depends on the machine
        if len(pages(beside)) > 1:
            break
        serve(beside, "beta", None)
        beside.turn_round()
    by_responses = pages(beside)[-1]
    assert (by_responses.verdict.subject, by_responses.verdict.share_of) == ("beta", ShareOf.RESPONSES)
    assert on_call_text.ENGINE_CANARIES_HEALTHY in by_responses.details["in detail"]


def test_a_page_says_what_a_witness_has_replayed_as_the_store_knows_it(tmp_path: Path) -> None:
    """Two agents and one store: one replays files, the other one has an address alone."""
    base, files = str(tmp_path / "base"), {name: str(tmp_path / name) for name in ADAPTERS}
    accept(tmp_path / "golden", "alpha", memory.Runner(memory.Config(base=base, adapters=files)))
    store = ClickHouseServer(tmp_path / "store").start()
    with ExitStack() as opened:
        opened.callback(store.stop)
        server = opened.enter_context(serving(ToyEngine(base=base, adapters={"alpha": files["alpha"]})))
        unlimited = {"tokens_per_minute": 10**9, "requests_per_minute": 10**9}
        asked = {"url": server.url, "base": base, "every": 1.0, "limits": unlimited}
        by_files = {"name": "tiny", "path": base, "adapters": [{"name": "alpha", "path": files["alpha"]}]}
        by_engine = {"name": "tiny", "served": asked, "adapters": [{"name": "alpha"}]}
        witness = Assembled(configured(tmp_path / "witness-0", store, by_files), opened, PATIENCE_S)
        witness.until(lambda: bool(witness.sink.of(FilesReplay)))
        agent = Assembled(configured(tmp_path / "engine-0", store, by_engine), opened, PATIENCE_S)
        agent.until(lambda: bool(agent.rounds) and last(agent, "alpha").files.by is KnownBy.WITNESS)
        server.engine.faults.of_adapter["alpha"] = "not_applied"
        agent.until(lambda: bool(agent.sink.notices))
        (page,) = agent.sink.notices
        assert page.verdict.files.state is FilesState.AS_ACCEPTED and page.verdict.files.pod == "witness-0"
        assert "the files are as accepted (replayed by witness-0 at" in page.details["in detail"]
        assert page.details["in detail"].endswith(" UTC) and the engine serves the base")


def configured(folder: Path, store: ClickHouseServer, model: Mapping[str, object]) -> Path:
    """The configuration of the pod that the folder is named after."""
    folder.mkdir()
    settings = {
        "models": [model],
        "pod": folder.name,
        "probes": {"golden_dir": "../golden", "seed": 5, "runner": "memory", "every": "1s"},
        "clickhouse": {"dsn": f"clickhouse://default@127.0.0.1:{store.port}/gapwatch"},
        "telemetry": {"prometheus_port": 0, "control_port": 0},
        "state_dir": "state",
    }
    (folder / "gapwatch.yaml").write_text(yaml.safe_dump(settings))
    return folder / "gapwatch.yaml"


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
