"""An adapter is enrolled through a serving engine, and rounds through the same engine are judged."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import yaml

from agent.cli.enrol import EnrolOptions, enrol_adapter
from agent.cli.probe import HEALTHY, probe_now
from agent.errors import Refused
from agent.worker.goldens import Goldens
from detectors.canaries.tolerance import Tolerances, draw_scores
from detectors.monitor import Monitor
from detectors.records import BaseRound, Cause, Reason, Round, Status, SubjectKind
from detectors.verdicts.incident import Rules
from probes.canaries.round import Scheduled, replay_base_round
from probes.enrolment.enrol import Request, enrol
from probes.enrolment.offline_reference import AGAINST
from probes.golden.archive import load, newest, save
from probes.golden.record import Golden, Unmonitorable
from probes.runner import BatchShape, Replay, Replayed, Stop
from probes.runners.served import Config as EngineConfig
from probes.runners.served import Runner as EngineRunner
from probes.serving.engine import Address, Engine
from tests.probes.serving.toy_engine import ToyEngine
from tests.probes.serving.toy_runner import ToyRunner, served
from tests.probes.worlds import ADAPTERS, SETTINGS, canary_set, enrolled, never, opened, silent
from tests.serving_engines.in_process import Engine as InProcess
from tests.serving_engines.shim import Server, serving
from tests.serving_engines.toy_engine import ToyEngine as EngineBehind

NOISE = 0.03  # nats on every logit of every request: published between a trainer and vLLM in bf16
RULES = Rules(Tolerances(), log_threshold=21.5)
RECORDED, BUDGET = 6, 512


class RecordedRunner(ToyRunner):
    """Each replay is answered several times by the engine, once and for all; rounds draw from these answers."""

    def __init__(self, engine: ToyEngine) -> None:
        super().__init__(engine)
        self.answers: dict[tuple[str, str | None, str | None], list[Replayed]] = {}
        self.rng = np.random.default_rng(15)

    def run(self, replays: Sequence[Replay], stop: Stop, shape: BatchShape | None = None) -> Iterator[Replayed]:
        for replay in replays:
            key = replay.canary, replay.target.adapter, str(replay.forced)
            if key not in self.answers:
                self.answers[key] = list(super().run([replay] * RECORDED, stop, shape))
            answer = self.answers[key][int(self.rng.integers(RECORDED))]
            yield Replayed(replay, answer.summary)


@lru_cache(maxsize=2)
def golden(offline: bool) -> Golden:
    """Made after the one in process: of two of one time the hash would say which is the newest."""
    settings = replace(SETTINGS, at=SETTINGS.at + 60.0)
    request = Request(served(noise=NOISE), "alpha", canary_set(), settings, list(ADAPTERS), silent, never)
    return enrol(request._replace(offline=enrolled("alpha") if offline else None))


def one_round(runner: ToyRunner, known: Golden, number: int) -> BaseRound:
    goldens: dict[str, Golden | Unmonitorable] = {"alpha": known}
    done = replay_base_round(runner, goldens, Scheduled("toy", number, 600.0 * number, BUDGET, 7), never)
    assert done is not None
    return done


@pytest.mark.parametrize("offline", [False, True])
@pytest.mark.parametrize("fault", ["not_applied", "scale:0.5", "wrong_adapter:beta"])
def test_a_fault_of_serving_pages_within_two_rounds(fault: str, offline: bool) -> None:
    known, runner, monitor = golden(offline), served(noise=NOISE), Monitor(RULES)
    for number in range(3):
        monitor.observe(one_round(runner, known, number))
    assert not monitor.open_subjects
    runner.engine.models_behind.inject("alpha", fault)
    for number in (3, 4):
        monitor.observe(one_round(runner, known, number))
    assert (SubjectKind.ADAPTER, "alpha") in monitor.open_subjects


@pytest.mark.parametrize("offline", [False, True])
def test_a_healthy_engine_never_pages_in_a_thousand_rounds(offline: bool) -> None:
    """Answers are recorded once; each round draws its canaries and which of their answers came."""
    runner = RecordedRunner(served(noise=NOISE).engine)
    runner.open()
    monitor = Monitor(RULES)
    for number in range(1000):
        verdicts = monitor.observe(one_round(runner, golden(offline), number)).verdicts
        assert all(verdict.status is Status.HEALTHY for verdict in verdicts if verdict.subject == "alpha"), number
    assert not monitor.open_subjects


@pytest.mark.parametrize("offline", [False, True])
def test_files_beside_an_engine_that_the_record_was_made_on_have_that_among_their_facts(offline: bool) -> None:
    member = round_of_files(golden(offline))
    assert "answers come from the files, accepted were those of toy 1.0, prompt" in member.facts


def round_of_files(known: Golden) -> Round:
    """As they were accepted."""
    done = replay_base_round(opened(), {"alpha": known}, Scheduled("toy", 0, 0.0, BUDGET, 7), never)
    assert done is not None
    return done.members[0]


def test_a_witness_refuses_a_record_of_an_engine_alone_because_its_noise_is_not_that_of_the_files(
    tmp_path: Path,
) -> None:
    save(golden(offline=False), tmp_path)
    shelf = Goldens(tmp_path, "toy", {"alpha": ""}, of_files=True)
    assert shelf.look() == []
    assert shelf.held["alpha"] == Unmonitorable(
        Reason.GOLDEN_REFUSED,
        "golden record of alpha: saw one made on toy 1.0, prompt, wanted one made in process: `gapwatch enrol alpha "
        "--replace --why TEXT` with this configuration. Enrolling through the engine afterwards keeps it and measures "
        "the engine",
    )


def test_a_witness_uses_the_record_made_in_process_that_the_engine_was_measured_against(tmp_path: Path) -> None:
    """Compared with the engine's own record, which knows 20 tokens of each position, healthy files would be off."""
    engine_made = golden(offline=True)
    assert draw_scores(round_of_files(engine_made), engine_made.tolerances).any()
    save(engine_made, tmp_path)
    witness, sidecar = (Goldens(tmp_path, "toy", {"alpha": ""}, of_files=of_files) for of_files in (True, False))
    assert witness.look() == []
    refused = witness.held["alpha"]
    assert isinstance(refused, Unmonitorable) and refused.reason is Reason.GOLDEN_REFUSED
    assert f"measured against, {engine_made.offline}, in probes.golden_dir" in refused.detail
    offline = save(enrolled("alpha"), tmp_path)
    assert [each.golden for each in witness.look()] == [offline] and witness.look() == []
    used = witness.held["alpha"]
    assert isinstance(used, Golden) and used.hash == offline == engine_made.offline
    assert not draw_scores(round_of_files(used), used.tolerances).any()
    assert [each.golden for each in sidecar.look()] == [engine_made.hash]
    beside = sidecar.for_files()["alpha"]
    assert isinstance(beside, Golden) and beside.hash == offline, "its own files are compared likewise"


@pytest.fixture
def shim() -> Iterator[Server]:
    """An engine over HTTP, with vLLM's fields."""
    with serving(EngineBehind(adapters={name: f"{name}-v1" for name in ADAPTERS}, noise=0.01)) as running:
        yield running


def configuration(folder: Path, shim: Server) -> Path:
    rows = [{"id": canary.id, "messages": list(canary.messages)} for canary in canary_set().canaries]
    (folder / "canaries.jsonl").write_text("\n".join(map(json.dumps, rows)))
    # It has no users: nobody is served later for what an enrolment asks in a minute.
    limits = {"tokens_per_minute": 10**9, "requests_per_minute": 10**9}
    served_at = {"url": shim.url, "base": shim.engine.base, "limits": limits}
    adapters = [{"name": name, "canaries": "canaries.jsonl"} for name in ADAPTERS]
    settings = {
        "models": [{"name": "toy", "served": served_at, "adapters": adapters}],
        "probes": {"golden_dir": "golden"},
        "clickhouse": {"dsn": "clickhouse://default@127.0.0.1:9/gapwatch"},
    }
    (folder / "gapwatch.yaml").write_text(yaml.safe_dump(settings))
    return folder / "gapwatch.yaml"


def the_record(folder: Path) -> Golden:
    name = newest(folder / "golden", "alpha")
    assert name is not None
    return load(folder / "golden", name)


def test_the_command_enrols_through_an_engine_and_refuses_to_do_it_twice(tmp_path: Path, shim: Server) -> None:
    config = configuration(tmp_path, shim)
    assert enrol_adapter(config, "alpha", EnrolOptions(), json=True) == 0
    made = the_record(tmp_path)
    assert made.made_on.startswith("vllm 0.33") and made.made_on.endswith("scoring in the prompt")
    assert made.offline == "" and made.power.monitorable
    with pytest.raises(Refused, match="accepted already"):
        enrol_adapter(config, "alpha", EnrolOptions(), json=True)


def test_the_command_measures_the_engine_against_a_record_that_was_copied_in(tmp_path: Path, shim: Server) -> None:
    config = configuration(tmp_path, shim)
    copied = save(enrolled("alpha"), tmp_path / "golden")
    assert enrol_adapter(config, "alpha", EnrolOptions(), json=True) == 0
    made = the_record(tmp_path)
    assert made.offline == copied == made.previous and made.scales == enrolled("alpha").scales
    assert AGAINST.name in made.noise


def test_the_command_refuses_an_engine_that_was_always_wrong(
    tmp_path: Path, shim: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configuration(tmp_path, shim)
    copied = save(enrolled("alpha"), tmp_path / "golden")
    shim.engine.faults.of_adapter["alpha"] = "scale:0.5"
    assert enrol_adapter(config, "alpha", EnrolOptions(), json=True) == 2
    assert "applied at another strength" in json.loads(capsys.readouterr().out)["refused"]
    assert newest(tmp_path / "golden", "alpha") == copied


def test_an_adapter_on_the_output_layer_is_enrolled_and_judged_token_by_token(
    tmp_path: Path, shim: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configuration(tmp_path, shim)
    shim.engine.faults.scored_as_base.add("alpha")
    assert enrol_adapter(config, "alpha", EnrolOptions(), json=True) == 0
    made = the_record(tmp_path)
    assert made.made_on.endswith("scoring token by token")
    assert any("scoring in the prompt is blind for alpha" in words for words in made.unrecorded)
    capsys.readouterr()
    assert probe_now(config, ["alpha"], json=False) == HEALTHY
    said = " ".join("".join(capsys.readouterr()).split())
    assert "alpha: answered by vllm 0.33" in said and "scoring token by token; scoring in the prompt is blind" in said


def test_an_engine_that_takes_strengths_records_the_curve_that_its_files_would(shim: Server) -> None:
    behind = InProcess(EngineBehind(adapters=dict(ADAPTERS)))
    behind.strengths = True
    runner = EngineRunner(EngineConfig({"url": shim.url}, shim.engine.base, dict.fromkeys(ADAPTERS, "")), _to(behind))
    runner.open()
    made = enrol(Request(runner, "alpha", canary_set(), SETTINGS, list(ADAPTERS), silent, never))
    offline = enrolled("alpha")
    assert made.scales == offline.scales and len(made.scales) > 6
    assert not any("other strengths" in words for words in made.unrecorded)
    behind.toy.faults.of_adapter["alpha"] = "scale:0.5"
    done = replay_base_round(runner, {"alpha": made}, Scheduled("toy", 0, 0.0, BUDGET, 7), never)
    assert done is not None
    (verdict,) = [own for own in Monitor(RULES).observe(done).verdicts if own.subject == "alpha"]
    assert verdict.cause is Cause.WRONG_STRENGTH and verdict.scale == pytest.approx(0.5, abs=0.02)


def _to(engine: InProcess) -> Callable[[Address, str], Engine]:
    return lambda _address, _kind: engine


def test_over_http_the_base_whose_name_serves_an_adapter_is_named_in_the_first_round(shim: Server) -> None:
    shim.engine.faults.base_serves = "beta"
    runner = EngineRunner(EngineConfig({"url": shim.url}, shim.engine.base, dict.fromkeys(ADAPTERS, "")))
    runner.open()
    goldens: dict[str, Golden | Unmonitorable] = {"alpha": enrolled("alpha")}
    done = replay_base_round(runner, goldens, Scheduled("toy", 0, 0.0, BUDGET, 7), never)
    assert done is not None
    assert done.members[0].blocked is Reason.NOT_SERVED
    # Its list says so; where a list does not, the answers do (tests/probes/canaries/test_round.py).
    assert "the engine lists 2 models of that name" in done.members[0].detail


def test_over_http_an_unknown_name_that_is_answered_is_a_fact_of_the_round(shim: Server) -> None:
    shim.engine.faults.unknown_is_base = True
    runner = EngineRunner(EngineConfig({"url": shim.url}, shim.engine.base, dict.fromkeys(ADAPTERS, "")))
    runner.open()
    goldens: dict[str, Golden | Unmonitorable] = {"alpha": enrolled("alpha")}
    done = replay_base_round(runner, goldens, Scheduled("toy", 0, 0.0, BUDGET, 7), never)
    assert done is not None and done.members[0].blocked is None
    assert any("answers the unknown name gapwatch-" in fact for fact in done.members[0].facts)
