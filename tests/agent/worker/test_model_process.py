"""The models in a process of their own: whatever happens to it, this one goes on, says so, and starts it again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import structlog

import probes.runners
from agent.clock import Clock
from agent.config import Adapter, Config, Model, Served
from agent.errors import Retryable
from agent.records import GoldenAccepted, TrafficBatch
from agent.worker.model_process import LONGEST_WAIT_S, ModelProcess
from agent.worker.response_feed import LiveIdentities, ScoredBatch, TurnEnded
from agent.worker.silence import Blocked
from agent.worker.watched_bases import ModelSettings
from agent.worker.worker import Schedule
from detectors.records import BaseRound, Reason
from probes.golden.archive import newest, read_bytes
from probes.runners.memory import FAULTS
from probes.scoring.interaction import Interaction
from probes.scoring.scoring_job import ScoringOptions
from probes.scoring.token_distribution import SamplingParameters
from tests.agent import findings
from tests.end_to_end.world import ADAPTERS, enrolled

ROOT = Path(__file__).resolve().parents[3]
RUNNERS = Path(__file__).parent / "runners"
PATIENCE_S = 60.0
# Rounds come one after the other.
BUSY = Schedule(every_s=0.2, budget=512, seed=5, responses_every_s=60.0)
# One round, and then responses alone.
IDLE = replace(BUSY, every_s=3600.0)
MB = 1_000_000


@pytest.fixture(scope="module")
def goldens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("goldens")
    enrolled(folder)
    return folder


@pytest.fixture
def config(tmp_path: Path, goldens: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Three adapters by a runner that lies beside this file; the process finds it there too."""
    monkeypatch.setattr(probes.runners, "__path__", [*probes.runners.__path__, str(RUNNERS)])
    site = f"import probes.runners\nprobes.runners.__path__.append({str(RUNNERS)!r})\n"
    started_with(site, tmp_path, monkeypatch)
    adapters = [{"name": name, "path": f"{name}-v1"} for name in ADAPTERS]
    shutil.copytree(goldens, tmp_path / "golden")
    return Config.model_validate(
        {
            "models": [{"name": "tiny", "path": "base-v1", "adapters": adapters}],
            "probes": {
                "runner": "harmful",
                "runner_settings": {"folder": str(tmp_path)},
                "golden_dir": tmp_path / "golden",
            },
        }
    )


def started_with(site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python runs this at the start of each new process."""
    (tmp_path / "site").mkdir(exist_ok=True)
    (tmp_path / "site" / "sitecustomize.py").write_text(site)
    monkeypatch.syspath_prepend(tmp_path / "site")


@dataclass
class Models:
    """A process with all that it gave."""

    process: ModelProcess
    given: list[Any] = field(default_factory=list)

    def of(self, kind: type) -> list[Any]:
        return [result for result in self.given if isinstance(result, kind)]

    def until(self, happened: Callable[[], bool]) -> None:
        give_up = time.monotonic() + PATIENCE_S
        while not happened():
            assert time.monotonic() < give_up, (self.process.status, self.given[-5:])
            self.process.deliver()
            time.sleep(0.01)

    @property
    def pid(self) -> int:
        assert self.process._life is not None
        return self.process._life.process.pid


@pytest.fixture
def start(config: Config) -> Iterator[Callable[..., Models]]:
    opened: list[Models] = []

    def started(
        schedule: Schedule = BUSY, ceiling: int | None = None, own: Config = config, fetch: Any = lambda *_: None
    ) -> Models:
        settings = ModelSettings(own, schedule, ScoringOptions(), SamplingParameters(1.0), ceiling=ceiling)
        given: list[Any] = []
        models = Models(ModelProcess(settings, fetch, [given.append], Clock()), given)
        opened.append(models)
        models.process.open()
        return models

    yield started
    for models in opened:
        models.process.close(5.0)
        assert is_gone(models.pid)


def is_gone(pid: int) -> bool:
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


def harm(folder: Path, deed: str) -> None:
    (folder / "begun").unlink(missing_ok=True)
    (folder / "harm").write_text(deed)


def heal(folder: Path) -> None:
    (folder / "harm").unlink()


def sampled(*interactions: Interaction) -> TrafficBatch:
    return replace(findings.batch(), interactions=interactions)


def test_the_record_in_force_comes_before_the_round_that_is_measured_by_it_and_the_turn_ends_last(
    start: Callable[..., Models],
) -> None:
    models = start(IDLE)
    models.until(lambda: bool(models.of(TurnEnded)))
    kinds = [GoldenAccepted, GoldenAccepted, GoldenAccepted, BaseRound, LiveIdentities, TurnEnded]
    assert [type(result) for result in models.given[:6]] == kinds
    (done,) = models.of(BaseRound)
    assert [member.blocked for member in done.members] == [None, None, None]
    assert models.process.status == (True, "working")


def test_sampled_responses_are_scored_and_those_of_adapters_without_a_model_are_left_out(
    start: Callable[..., Models],
) -> None:
    models = start(IDLE)
    many = [findings.interaction(n, "alpha") for n in range(40)]
    models.process.submit(sampled(*many, findings.interaction(50, "unwatched")))
    models.until(lambda: sum(len(batch.results.scores) for batch in models.of(ScoredBatch)) == 40)
    assert models.process.shed == dict.fromkeys((*ADAPTERS, "tiny"), 0)


def test_responses_of_a_base_that_its_engine_answers_for_are_not_waiting_for_anybody(config: Config) -> None:
    """Nobody scores them: they are not sent, and none is shed for lack of time."""
    served = Model(name="asked", served=Served(url="http://127.0.0.1:9"), adapters=(Adapter(name="echo"),))
    both = config.model_copy(update={"models": (*config.models, served)})
    settings = ModelSettings(both, IDLE, ScoringOptions(), SamplingParameters(1.0))
    process = ModelProcess(settings, lambda *_: None, [], Clock())
    process.submit(sampled(*(findings.interaction(n, name) for n in range(200) for name in ("alpha", "echo"))))
    assert process.shed == {"alpha": 136, "beta": 0, "gamma": 0, "tiny": 0}


def test_what_has_no_room_is_shed_and_the_caller_waits_for_nothing(start: Callable[..., Models]) -> None:
    models = start(IDLE)
    models.process.submit(sampled(*(findings.interaction(n, "alpha") for n in range(200))))
    models.until(lambda: bool(models.of(ScoredBatch)))
    shed = models.process.shed
    assert shed["alpha"] >= 100 and shed["beta"] == 0
    assert models.process.status == (True, f"working; sampled responses shed for lack of time: alpha {shed['alpha']}")


def test_killed_in_the_middle_of_a_round_it_is_started_again_and_goes_on_with_its_numbers(
    start: Callable[..., Models], tmp_path: Path
) -> None:
    models = start()
    models.until(lambda: len(models.of(BaseRound)) >= 2)
    harm(tmp_path, "round: sleep")
    models.until((tmp_path / "begun").is_file)
    models.process.deliver()
    before, first = len(models.of(BaseRound)), models.pid
    models.until(lambda: models.process.cpu_s > 0)
    before_s = models.process.cpu_s
    heal(tmp_path)
    os.kill(models.pid, signal.SIGKILL)
    models.until(lambda: bool(models.of(Blocked)))
    (blocked,) = models.of(Blocked)
    assert blocked.reason is Reason.REPLAY_FAILED
    assert blocked.why.startswith("the model process was ended by signal 9 (it had ")
    ok, words = models.process.status
    assert not ok and words == f"{blocked.why}; starts again in 1 s"
    models.until(lambda: len(models.of(BaseRound)) >= before + 2)
    assert [done.number for done in models.of(BaseRound)] == list(range(len(models.of(BaseRound))))
    assert models.pid != first and is_gone(first) and models.process.restarts == 1
    assert models.process.cpu_s > before_s > 0, "of both processes"
    models.until(lambda: models.process.status == (True, "working"))
    assert len(models.of(GoldenAccepted)) == 3, "what was in force before is not reported again"


def test_killed_while_it_scores_it_loses_what_it_had_and_that_is_counted(
    start: Callable[..., Models], tmp_path: Path
) -> None:
    harm(tmp_path, "score: sleep")
    models = start(IDLE)
    models.process.submit(sampled(*(findings.interaction(n, "alpha") for n in range(5))))
    models.until((tmp_path / "begun").is_file)
    heal(tmp_path)
    os.kill(models.pid, signal.SIGKILL)
    models.until(lambda: models.process.restarts == 1)
    models.process.submit(sampled(*(findings.interaction(n, "alpha") for n in range(5, 9))))
    models.until(lambda: sum(len(batch.results.scores) for batch in models.of(ScoredBatch)) == 4)
    assert models.process.shed == {"alpha": 5, "beta": 0, "gamma": 0, "tiny": 0}


def test_an_allocation_beyond_the_ceiling_is_a_round_without_memory_and_not_the_end(
    start: Callable[..., Models], tmp_path: Path
) -> None:
    models = start(ceiling=400 * MB)
    models.until(lambda: len(models.of(BaseRound)) >= 1)
    first = models.pid
    harm(tmp_path, "round: hold 500")
    with structlog.testing.capture_logs() as lines:
        models.until(lambda: models.of(BaseRound)[-1].members[0].blocked is Reason.NO_MEMORY)
        without = models.of(BaseRound)[-1].members
        models.until(lambda: models.process.status[0] is False)
        names = ", ".join(member.adapter for member in without)
        words = f"no_memory: {names} cannot be measured: {without[0].detail}"
        assert models.process.status == (False, words)
        heal(tmp_path)
        models.until(lambda: models.of(BaseRound)[-1].members[0].blocked is None)
        models.until(lambda: models.process.status == (True, "working"))
    assert [line["event"] for line in lines if line.get("part") == "models"] == ["part_not_ok", "part_ok_again"]
    assert (models.pid, models.process.restarts) == (first, 0)


def test_a_process_above_its_ceiling_is_ended_before_the_container_is(
    start: Callable[..., Models], tmp_path: Path
) -> None:
    """Shared memory is not data: no limit of the process holds it back."""
    models = start(ceiling=400 * MB)
    models.until(lambda: len(models.of(BaseRound)) >= 1)
    harm(tmp_path, "round: share 500")
    models.until(lambda: bool(models.of(Blocked)))
    heal(tmp_path)
    (blocked,) = models.of(Blocked)
    assert blocked.reason is Reason.NO_MEMORY
    assert blocked.why.startswith("the model process was ended above its memory ceiling (it had ")
    assert blocked.why.endswith(", the ceiling is 0.4 GB)")
    before = len(models.of(BaseRound))
    models.until(lambda: len(models.of(BaseRound)) > before)


def test_a_library_that_aborts_ends_its_own_process_alone(start: Callable[..., Models], tmp_path: Path) -> None:
    models = start()
    harm(tmp_path, "round: abort")
    models.until(lambda: len(models.of(Blocked)) >= 2)
    assert {blocked.why.partition(" (")[0] for blocked in models.of(Blocked)} == {
        "the model process was ended by signal 6"
    }
    assert models.process._wait_s >= 2.0, "each time it waits twice as long"
    heal(tmp_path)
    models.until(lambda: models.process.status[0])
    assert models.process._wait_s == 1.0, "until it has worked"


def test_a_library_that_aborts_for_want_of_memory_is_told_as_that_however_little_the_process_held(
    start: Callable[..., Models], tmp_path: Path
) -> None:
    models = start(ceiling=4000 * MB)
    harm(tmp_path, "round: rust 402653184")
    models.until(lambda: bool(models.of(Blocked)))
    blocked = models.of(Blocked)[0]
    assert blocked.reason is Reason.NO_MEMORY
    assert blocked.why.startswith("the model process aborted: an allocation of 402653184 bytes failed (it had ")


def test_a_device_that_is_lost_ends_the_process_so_that_another_one_may_have_it(
    start: Callable[..., Models], config: Config, tmp_path: Path
) -> None:
    models = start(own=by_runner(config, "harmful", folder=str(tmp_path), faults={"": "device_lost"}))
    models.until(lambda: bool(models.of(Blocked)))
    blocked = models.of(Blocked)[0]
    assert blocked == Blocked(Reason.REPLAY_FAILED, f"the model process has lost its device: {FAULTS['device_lost']}")
    (failed,) = models.of(BaseRound)
    assert {member.blocked for member in failed.members} == {Reason.REPLAY_FAILED}


def by_runner(config: Config, runner: str, **settings: object) -> Config:
    changed = {"runner": runner, "runner_settings": settings}
    return config.model_copy(update={"probes": config.probes.model_copy(update=changed)})


def test_settings_that_the_runner_refuses_are_a_state_and_tried_again_slowly(
    start: Callable[..., Models], config: Config
) -> None:
    models = start(own=by_runner(config, "memory", faults={"nobody": "none"}))
    models.until(lambda: bool(models.of(Blocked)))
    assert "cannot start: probes.runner_settings" in models.of(Blocked)[0].why
    assert models.process._again_at - time.monotonic() > 0.9 * LONGEST_WAIT_S


WITHOUT_TORCH = """
import sys

class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")

sys.meta_path.insert(0, Refusing())
"""


def test_a_base_that_comes_while_the_process_is_down_is_said_to_be_blocked_before_the_next_try(
    config: Config, start: Callable[..., Models]
) -> None:
    models = start(own=by_runner(config, "memory", faults={"nobody": "none"}))
    models.until(lambda: bool(models.of(Blocked)))
    (blocked,) = models.of(Blocked)
    models.process.own(frozenset())
    models.process.deliver()
    assert models.of(Blocked) == [blocked], "a base that goes is nobody's to speak of"
    models.process.own(frozenset({"tiny"}))
    models.process.deliver()
    assert models.of(Blocked) == [blocked, blocked] and models.process.restarts == 0


def test_without_the_model_packages_it_names_the_extra_and_is_tried_again_slowly(
    start: Callable[..., Models], config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started_with(WITHOUT_TORCH, tmp_path, monkeypatch)
    models = start(own=by_runner(config, "in_process"))
    models.until(lambda: bool(models.of(Blocked)))
    (blocked,) = models.of(Blocked)
    wanted = 'torch: saw no such package installed, wanted pip install "gapwatch[models]"'
    assert blocked == Blocked(Reason.REPLAY_FAILED, f"the model process cannot start: {wanted}")
    assert models.process._again_at - time.monotonic() > 0.9 * LONGEST_WAIT_S


def test_a_process_that_hangs_is_given_its_budget_and_then_ended(start: Callable[..., Models], tmp_path: Path) -> None:
    models = start()
    harm(tmp_path, "round: sleep")
    models.until((tmp_path / "begun").is_file)
    pid = models.pid
    models.process.close(0.3)
    assert is_gone(pid) and not models.process._thread.is_alive()
    assert models.of(Blocked) == []


def test_a_record_that_lost_its_file_comes_from_the_store_of_this_process(
    start: Callable[..., Models], config: Config
) -> None:
    folder = config.probes.golden_dir
    stored = {name: (hash_, read_bytes(folder, hash_)) for name in ADAPTERS if (hash_ := newest(folder, name))}
    for file in folder.glob("*.golden"):
        file.unlink()

    def fetch(adapter: str, pin: str) -> tuple[str, bytes] | None:
        assert pin == ""
        if adapter == "beta":
            raise Retryable("clickhouse", "away")
        return stored[adapter]

    models = start(IDLE, fetch=fetch)
    models.until(lambda: bool(models.of(BaseRound)))
    assert [accepted.adapter for accepted in models.of(GoldenAccepted)] == ["alpha", "gamma"]
    (done,) = models.of(BaseRound)
    assert [member.blocked for member in done.members] == [None, Reason.NO_GOLDEN, None]


def test_the_process_has_the_same_share_of_the_cpus(
    start: Callable[..., Models], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("RAYON_NUM_THREADS", raising=False)
    models = start(IDLE)
    models.until(lambda: bool(models.of(BaseRound)))
    environment = Path(f"/proc/{models.pid}/environ").read_bytes().split(b"\0")
    assert {b"OMP_NUM_THREADS=1", b"RAYON_NUM_THREADS=1"} <= set(environment)
    assert Path(f"/proc/{models.pid}/oom_score_adj").read_text().strip() == "1000"


HOLDS_ONE = """
import sys, time
from agent.clock import Clock
from agent.config import Config
from agent.worker.model_process import ModelProcess
from agent.worker.watched_bases import ModelSettings
from agent.worker.worker import Schedule
from probes.scoring.token_distribution import SamplingParameters

config = Config.model_validate_json(sys.argv[1])
settings = ModelSettings(config, Schedule(60.0, 512, 5), None, SamplingParameters(1.0))
models = ModelProcess(settings, lambda *_: None, [], Clock())
models.open()
while not models.status[0]:
    time.sleep(0.05)
print(models._life.process.pid, "torch" in sys.modules, flush=True)
time.sleep(1000.0)
"""


def test_it_ends_with_the_process_that_started_it(config: Config) -> None:
    command = [sys.executable, "-c", HOLDS_ONE, by_runner(config, "memory").model_dump_json()]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid, has_torch = next(line for line in parent.stdout if "models_started" not in line).split()
        parent.kill()
    give_up = time.monotonic() + PATIENCE_S
    while not is_gone(int(pid)):
        assert time.monotonic() < give_up
        time.sleep(0.01)
    assert has_torch == "False"
