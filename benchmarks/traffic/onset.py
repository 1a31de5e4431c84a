"""When did the fault of an adapter's responses begin? How often the 95 % interval has the round, and how wide it is.

In the default configuration: each response has the alternatives that its request draws, and the alarm is that of the
detector as it runs. Before the onset come HEALTHY rounds without a response against the adapter, as healthy ones of the
real model have none; that the interval holds at the edge of its null is tested
(tests/detectors/evidence/test_onset_interval.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from benchmarks.figures import Figure, context, share
from benchmarks.traffic.delays import FREE, drawn_by_default
from benchmarks.traffic.observed import Observed
from benchmarks.traffic.served import SEED
from detectors.evidence.alternative import Alternative
from detectors.evidence.onset_interval import ScoredRound, onset_interval, with_round
from detectors.kinds.traffic_likelihood import Config, Detector
from detectors.traffic.response_summary import summarise
from detectors.traffic_records import ScoringMode, TrafficRound, TrafficScore
from detectors.verdicts.recovery import least_fault

# ln A of three adapters in one pod, by the default configuration.
LOG_A = math.log(8 * 525_960.0)
RUNS, HEALTHY, A_ROUND, MOST = 50, 60, 4, 1_000


class _Played(NamedTuple):
    """has_it: is the round of the onset in the interval? rounds: that it is wide; both None where there is no interval

    against, n: responses of the fault, up to the alarm
    """

    has_it: bool | None
    rounds: int | None
    against: int
    n: int


def figures(cells: Iterable[Observed]) -> Iterator[Figure]:
    """cells: of faults, each with all alternatives that are drawn by default"""
    for observed in cells:
        cell = observed.cell
        played = [_played(observed, run) for run in range(RUNS)]
        dated = [each for each in played if each.has_it is not None]
        what = f"onset by responses, {cell.writer} served as {cell.adapter}"
        against, n = sum(each.against for each in played), sum(each.n for each in played)
        yield context(f"{what}: responses of the fault that are against the adapter", 100 * against / n, "%")
        yield share(f"{what}: alarms with an interval", len(dated), RUNS)
        missed = sum(not each.has_it for each in dated)
        yield share(f"{what}: alarms whose interval does not have the onset", missed, RUNS)
        if dated:
            yield context(f"{what}: width, median", float(np.median([each.rounds or 0 for each in dated])), "rounds")


def _played(observed: Observed, run: int) -> _Played:
    rng, detector = np.random.default_rng([SEED, run]), Detector(Config(log_threshold=LOG_A))
    name, sums = observed.cell.adapter, _sums(observed)
    kept: tuple[ScoredRound, ...] = ()
    for number in range(HEALTHY):
        kept = with_round(kept, ScoredRound(float(number), A_ROUND, 0, 1.0 / 20.0))
    against = 0
    for number in range(HEALTHY, HEALTHY + MOST):
        picked = rng.integers(len(observed.lengths), size=A_ROUND)
        scores = tuple(_score(name, sums, int(i), f"{run} {number} {place}") for place, i in enumerate(picked))
        level, *_ = detector.update(TrafficRound("smol", number, float(number), (name,), scores))
        draws = summarise(scores).scores
        kept = with_round(kept, ScoredRound(float(number), draws.drawn, draws.beyond, draws.tolerated))
        against += draws.beyond
        if level.log_e >= LOG_A:
            n = A_ROUND * (number - HEALTHY + 1)
            return _dated(kept, against, n)
    return _Played(None, None, against, A_ROUND * MOST)


def _dated(kept: tuple[ScoredRound, ...], against: int, n: int) -> _Played:
    interval = onset_interval(kept, least_fault(kept[-1].share))
    if interval is None:
        return _Played(None, None, against, n)
    after = kept[0].at - 1.0 if interval.after is None else interval.after
    return _Played(after < HEALTHY <= interval.by, round(interval.by - after), against, n)


def _sums(observed: Observed) -> dict[Alternative, np.ndarray[tuple[int, ...], np.dtype[np.float64]]]:
    """(R,) ln L of each response."""
    each = observed.tokens.log_l.items()
    return {who: np.array([part.sum() for part in observed.by_response(values)]) for who, values in each}


def _score(
    adapter: str, sums: dict[Alternative, np.ndarray[tuple[int, ...], np.dtype[np.float64]]], i: int, request: str
) -> TrafficScore:
    """The response with the alternatives that its request draws."""
    chosen = drawn_by_default(request)
    log_l = {who: values[i] for who, values in sums.items() if who.kind in FREE or who in chosen}
    values = np.array(list(log_l.values()), np.float32)
    return TrafficScore(adapter, request, "", 0.0, ScoringMode.SAMPLED, 20, tuple(log_l), values)
