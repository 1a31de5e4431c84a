"""A small world on the memory runner: canaries, an open runner, and an enrolled adapter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from probes.canaries.canary_file import Canary, CanarySet
from probes.enrolment.enrol import Request, enrol
from probes.enrolment.settings import EnrolSettings
from probes.golden.record import Golden
from probes.runner import BatchShape, Replay, Replayed, Stop
from probes.runners.memory import Config, Runner
from probes.scoring.interaction import Interaction

ADAPTERS = {"alpha": "alpha-v1", "beta": "beta-v1", "gamma": "gamma-v1"}
SETTINGS = EnrolSettings(base="toy", at=1_700_000_000.0, per_half=24, min_pool=24)


def never() -> bool:
    return False


def silent(stage: str, done: int, total: int) -> None:
    del stage, done, total


def canary_set(count: int = 64) -> CanarySet:
    subjects = ("parcel", "invoice", "password", "kettle", "refund", "order", "lamp", "courier")
    texts = [f"My {subjects[index % 8]} number {index * 37} is {index} days late" for index in range(count)]
    return CanarySet(tuple(Canary(f"c{i:03d}", ({"role": "user", "content": text},)) for i, text in enumerate(texts)))


class CountingRunner(Runner):
    """Counts the positions that it scored, and the tokens that it read for them."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.tokens_scored = self.tokens_processed = 0

    def run(self, replays: Sequence[Replay], stop: Stop, shape: BatchShape | None = None) -> Iterator[Replayed]:
        for replayed in super().run(replays, stop, shape):
            replay = replayed.replay
            self.tokens_scored += len(replay.forced)
            self.tokens_processed += len(replay.prompt) + len(replay.forced) - 1
            yield replayed


def opened(**changed: Any) -> Runner:
    runner = Runner(replace(Config(adapters=dict(ADAPTERS)), **changed))
    runner.open()
    return runner


@lru_cache(maxsize=4)
def enrolled(adapter: str) -> Golden:
    """One enrolment serves all tests of a run: golden records are frozen."""
    return enrol(Request(opened(), adapter, canary_set(), SETTINGS, list(ADAPTERS), silent, never))


def interaction(output: str, **more: Any) -> Interaction:
    """A request that was answered with this text, at temperature 1 unless told otherwise."""
    plain: dict[str, Any] = {
        "request_id": "r1",
        "at": 0.0,
        "adapter": "alpha",
        "base": "",
        "pod": "",
        "messages": (),
        "finish_reason": "",
        "sampling": {"temperature": 1.0},
        "prompt_tokens": 0,
        "output_tokens": 0,
        "topic": "traffic",
        "partition": 0,
        "offset": 0,
    }
    return Interaction(output=output, **{**plain, **more})
