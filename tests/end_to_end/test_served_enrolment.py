"""An adapter is enrolled through a serving engine, and rounds through the same engine are judged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import pytest

from detectors.canaries.tolerance import Tolerances
from detectors.monitor import Monitor
from detectors.records import BaseRound, Status, SubjectKind
from detectors.verdicts.incident import Rules
from probes.canaries.round import Scheduled, replay_base_round
from probes.enrolment.enrol import Request, enrol
from probes.golden.record import Golden, Unmonitorable
from probes.runner import BatchShape, Replay, Replayed, Stop
from tests.probes.serving.toy_engine import ToyEngine
from tests.probes.serving.toy_runner import ToyRunner, served
from tests.probes.worlds import ADAPTERS, SETTINGS, canary_set, enrolled, never, silent

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
    request = Request(served(noise=NOISE), "alpha", canary_set(), SETTINGS, list(ADAPTERS), silent, never)
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
