"""Records that cross between two processes come out as they went in; what a golden record holds crosses once."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.config import Config
from agent.records import GoldenAccepted
from agent.worker import record_pipe
from agent.worker.messages import Ended, Exit, GoldenWanted, Judged, Logged, Started, Stop, StoredGolden, ToScore
from agent.worker.record_pipe import PipeClosed, RecordPipe, SentReference
from agent.worker.response_feed import LiveIdentities, ScoredBatch, TurnEnded
from agent.worker.response_scorer import ResponseResults
from agent.worker.watched_bases import ModelSettings
from agent.worker.worker import Schedule
from detectors.canaries.retention import PreparedReference
from detectors.canaries.tolerance import Tolerances
from detectors.monitor import Monitor
from detectors.records import BaseRound, FaultReplay, Identity, SubjectKind
from detectors.verdicts.incident import Rules
from probes.canaries.round import Scheduled, replay_base_round
from probes.golden.archive import load, save
from probes.golden.record import Golden
from probes.runners.memory import Config as RunnerConfig
from probes.runners.memory import Runner
from probes.scoring.scoring_job import ScoringOptions
from probes.scoring.token_distribution import SamplingParameters
from tests.agent import findings
from tests.probes.worlds import enrolled


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> tuple[Golden, GoldenAccepted]:
    """As the agent reads it, and as it says that it is in force."""
    folder: Path = tmp_path_factory.mktemp("goldens")
    name = save(enrolled("alpha"), folder)
    read = load(folder, name)
    data = next(folder.glob("*.golden")).read_bytes()
    return read, GoldenAccepted("alpha", "tiny", name, "", "", 0.0, data)


@pytest.fixture
def ends(golden: tuple[Golden, GoldenAccepted]) -> Iterator[tuple[RecordPipe, RecordPipe]]:
    """The end that measures, and the other one."""
    ours, theirs = Pipe()
    measuring, judging = RecordPipe(theirs, lambda: [golden[0]]), RecordPipe(ours)
    yield measuring, judging
    measuring.close()
    judging.close()


def crossed(ends: tuple[RecordPipe, RecordPipe], record: object) -> Any:
    measuring, judging = ends
    sending = threading.Thread(target=measuring.send, args=(record,))
    sending.start()  # a large record waits for its reader
    received = judging.receive()
    sending.join()
    return received


def of(golden: Golden, number: int = 0, fault: str = "none") -> BaseRound:
    runner = Runner(RunnerConfig(adapters={"alpha": "alpha-v1", "beta": "beta-v1"}))
    runner.open()
    runner.inject("alpha", fault)
    done = replay_base_round(runner, {"alpha": golden}, Scheduled("tiny", number, 5.0, 512, 1), lambda: False)
    assert done is not None
    return done


def same(left: Any, right: Any) -> bool:
    """Field by field; a reference by what it holds, whichever way it came."""
    if isinstance(left, np.ndarray):
        return np.array_equal(left, right, equal_nan=left.dtype.kind == "f")
    if is_dataclass(left):
        assert type(left) is type(right) or isinstance(right, SentReference)
        return all(same(getattr(left, f.name), getattr(right, f.name)) for f in fields(left))
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(value, right[key]) for key, value in left.items())
    if isinstance(left, tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right or (left != left and right != right))


RULES = Rules(Tolerances(), log_threshold=15.0)
SETTINGS = ModelSettings(
    Config.model_validate(
        {"models": [{"name": "b", "path": "p", "adapters": [{"name": "a", "path": "q"}]}], "detectors": {}}
    ),
    Schedule(60.0, 512, 5),
    ScoringOptions(),
    SamplingParameters(0.7),
    {"b": 3},
    10**9,
)
DOWN = [
    SETTINGS, ToScore((findings.interaction(1),)), Judged("b", 1, 2.0), findings.verdict(), findings.golden(),
    StoredGolden(("sha256:0", b"data")), Stop(1.5),
]  # fmt: skip
UP = [
    Started(), GoldenWanted("a", ""), Logged("warning", "words", {"n": 1}), Ended(Exit.DEVICE_LOST, "why"),
    findings.base_round(), findings.flip(), findings.golden(), TurnEnded(1.0, {"a": 2}, "failure"),
    LiveIdentities("b", {"a": Identity("x", "y")}),
    ScoredBatch("b", ResponseResults(findings.traffic_round().scores, (findings.embedding(),), {("t", 0, "a"): 7})),
    FaultReplay(SubjectKind.ADAPTER, "a", findings.base_round(), (findings.round_(),), 3, 9.0),
]  # fmt: skip


@pytest.mark.parametrize("record", [*DOWN, *UP], ids=lambda record: type(record).__name__)
def test_every_record_that_crosses_comes_out_as_it_went_in(ends: tuple[RecordPipe, RecordPipe], record: object) -> None:
    assert same(record, crossed(ends, record))


def test_a_round_is_sent_without_what_its_golden_record_holds_and_has_it_all_the_same(
    ends: tuple[RecordPipe, RecordPipe], golden: tuple[Golden, GoldenAccepted]
) -> None:
    read, accepted = golden
    done = of(read)
    before = len(ends[0]._pickled(done))
    crossed(ends, accepted)
    assert len(ends[0]._pickled(done)) < before / 5
    given = crossed(ends, done)
    reference = given.members[0].measurements[0].comparison.reference
    assert isinstance(reference, SentReference) and isinstance(reference, PreparedReference)
    light = {f.name for f in fields(PreparedReference) if has_slot(reference, f.name)}
    assert light == set(record_pipe.LIGHT), "nothing was read yet"
    assert same(done, given)


def has_slot(reference: SentReference, name: str) -> bool:
    try:
        object.__getattribute__(reference, name)
    except AttributeError:
        return False
    return True


@pytest.mark.parametrize("fault", ["none", "not_applied", "scale:0.5", "without:part.0", "distorted:0.5"])
def test_a_round_that_has_crossed_is_judged_as_the_round_that_was_measured(
    ends: tuple[RecordPipe, RecordPipe], golden: tuple[Golden, GoldenAccepted], fault: str
) -> None:
    """Evidence, status, cause and every sentence."""
    read, accepted = golden
    crossed(ends, accepted)
    here, there = Monitor(RULES), Monitor(RULES)
    for number in range(3):
        done = of(read, number, fault)
        measured, received = here.observe(done), there.observe(crossed(ends, done))
        assert measured.verdicts == received.verdicts and measured.evidence == received.evidence


def test_a_healthy_round_is_judged_without_one_look_into_the_golden_record(
    ends: tuple[RecordPipe, RecordPipe], golden: tuple[Golden, GoldenAccepted], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, accepted = golden
    crossed(ends, accepted)

    def refuse(_: bytes) -> Golden:
        raise AssertionError("read")

    monkeypatch.setattr(record_pipe, "from_bytes", refuse)
    monitor = Monitor(RULES)
    for number in range(3):
        monitor.observe(crossed(ends, of(read, number)))


def test_a_reference_with_signatures_is_not_the_golden_records_and_is_sent_whole(
    ends: tuple[RecordPipe, RecordPipe], golden: tuple[Golden, GoldenAccepted]
) -> None:
    read, accepted = golden
    crossed(ends, accepted)
    done = of(read)
    (member,) = done.members
    first = member.measurements[0]
    signed = replace(first.comparison.reference, scales=first.comparison.reference.scales.copy())
    changed = replace(first, comparison=replace(first.comparison, reference=signed))
    given = crossed(ends, replace(member, measurements=(changed, *member.measurements[1:])))
    assert not isinstance(given.measurements[0].comparison.reference, SentReference)
    assert isinstance(given.measurements[1].comparison.reference, SentReference)


def test_the_end_of_the_pipe_is_an_error_of_its_own(ends: tuple[RecordPipe, RecordPipe]) -> None:
    measuring, judging = ends
    measuring.send(Started())
    measuring.close()
    assert judging.waiting(0.0) and judging.receive() == Started()
    assert judging.waiting(0.0)
    with pytest.raises(PipeClosed):
        judging.receive()
    with pytest.raises(PipeClosed):
        for _ in range(3):
            judging.send(Started())


def test_what_is_not_a_record_of_a_known_golden_is_pickled_as_always() -> None:
    ours, theirs = Pipe()
    pipe = RecordPipe(ours)
    assert pickle.loads(pipe._pickled(("a", 1))) == ("a", 1)
    theirs.close()
    pipe.close()
