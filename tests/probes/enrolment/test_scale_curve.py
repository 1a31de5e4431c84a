"""The scale curve: which strengths are recorded, and how well the effective scale is read between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest

from detectors.canaries.retention import nearest_scale, prepare
from detectors.records import Floats
from probes.canaries.replay_pairs import ask_all, summary
from probes.enrolment.enrol import Request, enrol
from probes.enrolment.scale_curve import ALWAYS, FEW, IN_BETWEEN, MISREADING, NEEDED_UP_TO, in_between
from probes.errors import Refused
from probes.golden.record import Golden
from probes.runner import BatchShape, Replay, Replayed, Stop, Target
from probes.runners.memory import Config, Runner
from tests.probes.worlds import ADAPTERS, SETTINGS, canary_set, never, silent

BETWEEN = (0.125, 0.25, 0.3, 0.7, 0.75, 0.8, 0.95, 1.05, 1.2, 1.25, 1.5, 1.75)


class BendingRunner(Runner):
    """Answers strength s as ``bend(s)``; counts the replays at each strength. Not finite from ``overflow`` on."""

    def __init__(self, bend: Callable[[float], float], overflow: float = np.inf) -> None:
        super().__init__(Config(adapters=dict(ADAPTERS)))
        self.bend, self.overflow = bend, overflow
        self.replays: dict[float, int] = {}

    def run(self, replays: Sequence[Replay], stop: Stop, shape: BatchShape | None = None) -> Iterator[Replayed]:
        bent = {
            replace(replay, target=replace(replay.target, scale=self.bend(replay.target.scale))): replay
            for replay in replays
        }
        for answer in super().run(list(bent), stop, shape):
            asked = bent[answer.replay]
            scale = asked.target.scale
            self.replays[scale] = self.replays.get(scale, 0) + 1
            told = answer.summary
            if told is not None and scale >= self.overflow:
                told = replace(told, log_probs=np.full_like(told.log_probs, np.nan))
            yield replace(answer, replay=asked, summary=told)


def recorded(runner: BendingRunner) -> Golden:
    runner.open()
    return enrol(Request(runner, "alpha", canary_set(), SETTINGS, ["beta"], silent, never))


def misreadings(runner: BendingRunner, golden: Golden, strength: float) -> Floats:
    """What the recorded curve of each canary makes of the adapter at this strength, minus the strength."""
    replays = [
        Replay(canary.id, canary.prompt, canary.forced, Target("alpha", scale=strength), canary.reference.kept)
        for canary in golden.canaries
    ]
    answers = ask_all(runner, replays, never)
    read = []
    for canary, replay in zip(golden.canaries, replays, strict=True):
        ready = prepare(canary.reference)
        read.append(nearest_scale(ready.effect_curve, ready.from_base(summary(answers[replay]).log_probs))[0])
    return np.array(read, np.float32) - np.float32(strength)


def test_a_straight_curve_needs_no_more_strengths_and_is_read_exactly() -> None:
    runner = BendingRunner(lambda scale: scale)
    golden = recorded(runner)
    assert golden.scales == pytest.approx((*ALWAYS, 4.0, 8.0))
    assert all(runner.replays[strength] == FEW for strength in IN_BETWEEN), "decided on a few canaries"
    assert all(runner.replays[strength] == 48 for strength in (0.5, 0.9, 1.1, 2.0, 4.0, 8.0))
    for strength in BETWEEN:
        assert np.abs(misreadings(runner, golden, strength)).max() < 1e-4


def test_a_bent_curve_gets_the_strengths_without_which_it_would_be_misread() -> None:
    runner = BendingRunner(lambda scale: scale**3)
    golden = recorded(runner)
    replayed = {strength: count for strength, count in runner.replays.items() if strength != 1.0}
    # By the cubic: at .75 the chord from .5 to .9 is read as .695, and what is left at .25 as next to nothing.
    assert {0.75, 0.25, 1.25, 1.5} <= set(golden.scales)
    # What was replayed on a few canaries is not replayed again.
    expected = {strength: 48 if strength in golden.scales else FEW for strength in IN_BETWEEN}
    assert replayed == expected | dict.fromkeys((0.5, 0.9, 1.1, 2.0, 4.0, 8.0), 48)
    for strength in IN_BETWEEN:
        allowed = MISREADING * max(SETTINGS.tolerances.scale, abs(strength - 1))
        assert np.abs(misreadings(runner, golden, strength)).max() <= allowed + 1e-6


def test_a_strength_far_above_is_read_as_far_above() -> None:
    runner = BendingRunner(lambda scale: scale)
    golden = recorded(runner)
    for strength in (3.0, 4.0, 6.0):
        assert misreadings(runner, golden, strength).min() + strength > NEEDED_UP_TO


@pytest.mark.parametrize(("overflow", "end"), [(5.0, 4.0), (3.0, 2.0)])
def test_the_curve_ends_before_numbers_that_are_not_finite(overflow: float, end: float) -> None:
    assert recorded(BendingRunner(lambda scale: scale, overflow)).scales[-1] == end


def test_numbers_that_are_needed_must_be_finite() -> None:
    with pytest.raises(Refused, match=r"the curve at strength 2"):
        recorded(BendingRunner(lambda scale: scale, 2.0))


@pytest.mark.parametrize(("rank", "added"), [(0, ()), (1, ()), (8, (8**-0.5,)), (16, ()), (64, ())])
def test_the_strength_of_a_forgotten_rslora_is_one_to_try(rank: int, added: tuple[float, ...]) -> None:
    assert in_between(rank) == (*IN_BETWEEN, *added)
