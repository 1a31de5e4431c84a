"""How often does a fault that stays, or comes and goes, page? The first day through the real monitor, a round a minute.

Rounds are drawn by the schedule from the canaries of a shipped golden record, 24 in each half; a canary is
either as accepted or answered by the base. ``python -m benchmarks.canaries.flapping [--json FILE]`` runs this alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from benchmarks.canaries.recorded_answers import accepted, answered_by, not_applied, shipped
from benchmarks.figures import Figure, arguments, at_most, exactly, report
from benchmarks.zoo.enrolled_base import SEED, round_of, rules
from detectors.monitor import Monitor
from detectors.records import BaseRound, Reason

ROUNDS_A_DAY, MOST_PAGES = 1440, 5
FAULT = range(200, 260)
# Round, number of canaries in each half and generator -> which of them the base answers in this round.
Shape = Callable[[int, int, np.random.Generator], NDArray[np.bool_]]


def _all_or_none(is_bad: Callable[[int, np.random.Generator], bool], share: float = 1.0) -> Shape:
    """The same part of the canaries in every bad round."""

    def shape(number: int, size: int, rng: np.random.Generator) -> NDArray[np.bool_]:
        bad: NDArray[np.bool_] = np.arange(size) < is_bad(number, rng) * round(share * size)
        return bad

    return shape


SHAPES: Mapping[str, Shape] = {
    "one canary in twelve bad for good": _all_or_none(lambda _number, _rng: True, 1 / 12),
    "one replica of four bad, drawn for each round": _all_or_none(lambda _number, rng: rng.random() < 0.25),
    "one replica of four bad, drawn for each canary": lambda _number, size, rng: rng.random(size) < 0.25,
    "three rounds bad, three good": _all_or_none(lambda number, _rng: number // 3 % 2 == 1),
    "five rounds bad, two good": _all_or_none(lambda number, _rng: number % 7 >= 2),
    "thirty rounds bad, thirty good": _all_or_none(lambda number, _rng: number // 30 % 2 == 1),
    "half of the canaries, ten rounds bad, ten good": _all_or_none(lambda number, _rng: number // 10 % 2 == 1, 0.5),
    "one round bad of twenty": _all_or_none(lambda number, _rng: number % 20 == 19),
    "ten rounds bad every three hours": _all_or_none(lambda number, _rng: number % 180 >= 170),
}


def measure(quick: bool) -> list[Figure]:
    """quick: a quarter of the day."""
    rounds, part = (ROUNDS_A_DAY // 4, "quarter of the day") if quick else (ROUNDS_A_DAY, "day")
    return [*_figures(rounds, part)]


def _figures(rounds: int, part: str) -> Iterator[Figure]:
    for name, shape in SHAPES.items():
        yield at_most(f"pages of the first {part}, {name}", pages(shape, rounds), "pages", MOST_PAGES)
    hour = _all_or_none(lambda number, _rng: number in FAULT)
    yield exactly(f"pages of the first {part}, an hour of fault, repaired", pages(hour, rounds), "pages", 1)
    yield exactly(f"pages of the first {part}, healthy", pages(_all_or_none(lambda *_: False), rounds), "pages", 0)


def pages(shape: Shape, rounds: int) -> int:
    """Alarms of one adapter in so many rounds."""
    golden = shipped("ticket-router")
    healthy, bad = (answered_by(golden, answer) for answer in (accepted, not_applied))
    monitor, rng, alarms = Monitor(rules()), np.random.default_rng(SEED), 0
    for number in range(rounds):
        is_bad = shape(number, len(golden.pool), rng)
        present = {
            canary.id: (bad if is_bad[place] else healthy)[canary.id]
            for half in (golden.pool, golden.held_out)
            for place, canary in enumerate(half)
        }
        drawn = round_of(golden, present, number)
        judged = monitor.observe(BaseRound(drawn.base, number, drawn.at, (drawn,)))
        alarms += sum(verdict.reason is Reason.ALARM for verdict in judged.verdicts)
    return alarms


if __name__ == "__main__":
    options = arguments(__doc__ or "")
    report(measure(options.quick), SEED, options.json)
