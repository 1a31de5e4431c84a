"""The replays that an enrolment is expected to take are about those that it takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from probes.enrolment.enrol import Request, enrol
from probes.enrolment.workload import replays_by_stage
from probes.runner import BatchShape, Replay, Replayed, Stop
from probes.runners.memory import Config, Runner
from tests.probes.worlds import ADAPTERS, SETTINGS, canary_set, never, silent


class CountedReplays(Runner):
    """How many replays it was asked for."""

    count = 0

    def run(self, replays: Sequence[Replay], stop: Stop, shape: BatchShape | None = None) -> Iterator[Replayed]:
        self.count += len(replays)
        return super().run(replays, stop, shape)


@pytest.mark.parametrize("others", [0, 2])
def test_the_estimate_is_within_a_third_of_the_replays(others: int) -> None:
    runner = CountedReplays(Config(adapters=dict(ADAPTERS)))
    runner.open()
    settings = SETTINGS
    enrol(Request(runner, "alpha", canary_set(), settings, ["beta", "gamma"][:others], silent, never))
    estimate = sum(replays_by_stage(runner, settings, others).values())
    assert 1.0 <= estimate / runner.count < 1.7, "continuations cost as much as replays and are not counted among them"


def test_the_work_stops_growing_with_the_number_of_other_adapters() -> None:
    runner = CountedReplays(Config())
    assert replays_by_stage(runner, SETTINGS, 4) == replays_by_stage(runner, SETTINGS, 63)
