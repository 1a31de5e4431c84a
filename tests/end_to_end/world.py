"""The whole agent in memory: broker, runner and sink are the in-memory implementations, the clock is set by hand."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from agent.alerting.checkpoint import StateFile
from agent.alerting.fleet import ALONE
from agent.alerting.judge import AskFleet, Judge
from agent.alerting.judged_bases import JudgedBases
from agent.app import App, Parts
from agent.clock import HandClock
from agent.kafka.in_memory import MemoryConsumer, MemoryTopic
from agent.sink import Sink as AnySink
from agent.sink import Sinks
from agent.sinks.memory import Sink
from agent.traffic.feed import TrafficFeed
from agent.traffic.reservoir import Config as SamplingConfig
from agent.traffic.traffic_sampler import TrafficSampler
from agent.worker.canary_feed import CanaryFeed
from agent.worker.goldens import Goldens
from agent.worker.response_feed import ResponseFeed
from agent.worker.response_scorer import ResponseScorer
from agent.worker.worker import Schedule, WatchedBase, Worker
from detectors.canaries.tolerance import Tolerances
from detectors.monitor import Monitor
from detectors.records import BaseRound
from detectors.traffic_records import Embedding, TrafficScore
from detectors.verdicts.incident import Rules
from probes.canaries.canary_file import Canary, CanarySet
from probes.canaries.watched_files import WatchedFiles
from probes.enrolment.enrol import Request, enrol
from probes.enrolment.settings import EnrolSettings
from probes.golden.archive import save
from probes.runner import Runner as AnyRunner
from probes.runners.memory import Config, Runner
from probes.scoring.scoring_job import ScoringOptions

EVERY_S = 60.0
BUDGET = 512
ADAPTERS = ("alpha", "beta", "gamma")
PATIENCE_S = 60.0
PLAIN = Schedule(EVERY_S, BUDGET, seed=5, responses_every_s=EVERY_S)


def canaries(adapter: str, n: int = 64) -> CanarySet:
    """Short questions; the memory runner answers each in about eighteen letters."""
    questions = [({"role": "user", "content": f"{adapter} question {i} about item {i * 7 % 31}"},) for i in range(n)]
    return CanarySet(tuple(Canary(f"{adapter}-{i}", messages, {}) for i, messages in enumerate(questions)))


def enrolled(folder: Path) -> None:
    """Golden records of the three adapters, as ``gapwatch enrol`` writes them."""
    for name in ADAPTERS:
        accept(folder, name, new_runner())


def accept(folder: Path, name: str, runner: AnyRunner, at: float = 1_700_000_000.0, why: str = "") -> None:
    """One golden record of what the runner answers now."""
    runner.open()
    others = [other for other in ADAPTERS if other != name]
    settings = EnrolSettings(base="tiny", at=at, why=why, min_tokens=6)
    save(enrol(Request(runner, name, canaries(name), settings, others, lambda *_: None, lambda: False)), folder)


def new_runner() -> Runner:
    return Runner(Config(adapters={name: f"{name}-v1" for name in ADAPTERS}))


@dataclass(frozen=True, slots=True)
class Line:
    """How one agent is set up. scoring: how responses are scored, None where they are not; runner, monitor: None for a
    new one; fleet: what the store says of other pods; files: of the base, beside an engine that answers its canaries"""

    schedule: Schedule = PLAIN
    scoring: ScoringOptions | None = None
    runner: Runner | None = None
    monitor: Monitor | None = None
    fleet: AskFleet = lambda _: ALONE
    files: WatchedFiles | None = None


class World:
    """One agent. ``turn_round`` lets one scheduled round happen and everything that follows from it."""

    def __init__(
        self,
        folder: Path,
        goldens: Path,
        topic: MemoryTopic | None = None,
        others: Sequence[AnySink] = (),
        line: Line = Line(),
    ) -> None:
        self.runner = line.runner or new_runner()
        self.clock = HandClock()
        self.topic = topic or MemoryTopic()
        self.sink = Sink()
        by_files = line.files.runner if line.files else self.runner
        self.scorer = ResponseScorer(by_files, line.scoring, base="tiny")
        shelf = Goldens(goldens, "tiny", dict.fromkeys(ADAPTERS, ""))
        schedule = line.schedule
        canaries = CanaryFeed({"tiny": ADAPTERS}, schedule.every_s if schedule.canaries else None)
        self.responses = ResponseFeed({"tiny": ADAPTERS}, schedule.responses_every_s or EVERY_S, bool(line.scoring))
        base = WatchedBase("tiny", self.runner, shelf, ADAPTERS, self.scorer, files=line.files)
        self.worker = Worker([base], schedule, self.clock, [canaries.receive, self.responses.receive])
        sampling = SamplingConfig(rate=1.0, per_adapter_per_minute=1000)
        monitor = line.monitor or Monitor(Rules(Tolerances(), log_threshold=15.0))
        self.judge = Judge(monitor, "test", StateFile(folder), line.fleet, JudgedBases({"tiny": ADAPTERS}))
        self.judge.gained(["tiny"], self.clock.now(), at_start=True)
        sinks = Sinks([self.sink, *others])
        sampler = TrafficSampler(sampling, ADAPTERS, bases={"tiny": "tiny"})
        consumer = MemoryConsumer(self.topic)
        self.traffic = TrafficFeed(consumer, sampler, dict, self.judge.judged, flush=sinks.flush)
        self.app = App(
            Parts(
                judge=self.judge,
                sinks=sinks,
                worker=self.worker,
                feeds=(canaries, self.responses, self.traffic),
                traffic=self.traffic,
                clock=self.clock,
                pod="pod-0",
                cluster="test",
            )
        )
        self._opened = ExitStack()

    def __enter__(self) -> World:
        self.app.open(self._opened)
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    @property
    def rounds(self) -> list[BaseRound]:
        return self.sink.of(BaseRound)

    @property
    def scores(self) -> list[TrafficScore]:
        """Of responses whose round has not come yet."""
        return self.responses._bases["tiny"].scores

    @property
    def embeddings(self) -> list[Embedding]:
        """Likewise."""
        return self.responses._bases["tiny"].embeddings

    def turn_first_responses(self) -> None:
        """Until the first round of responses is over, which comes with the worker's first turn."""
        self.turn_until(lambda: self.responses._bases["tiny"].last is not None)

    def turn_round(self) -> BaseRound:
        before = len(self.rounds)
        if before:
            self.clock.advance(EVERY_S)
        self.turn_until(lambda: len(self.rounds) > before)
        return self.rounds[-1]

    def turn_until(self, happened: Callable[[], bool]) -> None:
        """Turn the loop until it did. Raises TimeoutError."""
        give_up = time.monotonic() + PATIENCE_S
        while not happened():
            if time.monotonic() > give_up:
                raise TimeoutError("it did not happen")
            self.app.step()
            time.sleep(0.005)
