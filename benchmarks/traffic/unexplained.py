"""Faults of the engine that no alternative is like: how many responses until their ranks are evidence?

Positions are those of responses that were sampled; at each the rank is drawn again from its exact distribution, uniform
as accepted, under a fault as that gives it. (With the ranks of a few responses, drawn again and again, the histograms
would learn how those few came out.) HEALTHY responses first, and then those of the fault.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.figures import Figure, context, exactly
from benchmarks.traffic.delays import LOG_A
from benchmarks.traffic.observed import Doubles, Observed
from benchmarks.traffic.served import SEED
from detectors.kinds.rank_histogram import Config, Detector
from detectors.traffic_records import ScoringMode, TrafficRound, TrafficScore
from probes.scoring.token_scores import ROUNDING

RUNS, HEALTHY, A_ROUND, MOST = 10, 200, 4, 2000


def figures(faults: Sequence[Observed]) -> Iterator[Figure]:
    for observed in faults:
        cell, flat = observed.cell, np.full_like(observed.ranks_written, 1.0 / len(observed.ranks_written))
        needed = np.array([_needed(observed, observed.ranks_written, run) for run in range(RUNS)])
        yield context(
            f"ranks, {cell.writer} served as {cell.adapter}: mean responses", float(needed.mean()), "responses"
        )
        late = 100 * float((needed >= MOST).mean())
        yield context(f"ranks, {cell.writer} served as {cell.adapter}: not within {MOST} responses", late, "%")
    quiet = sum(_needed(faults[0], flat, run) < MOST for run in range(RUNS))
    yield exactly(f"ranks as accepted: past ln A within {MOST} responses, of {RUNS} runs", quiet, "runs", 0)


def _needed(observed: Observed, written: Doubles, run: int) -> int:
    """Responses of the fault until the level passes ln A, MOST where it does not."""
    rng, detector, name = np.random.default_rng([SEED, run]), Detector(Config()), observed.cell.adapter
    ends = observed.lengths.cumsum()
    flat = np.full_like(written, 1.0 / len(written))
    for number in range(0, HEALTHY + MOST, A_ROUND):
        chances = flat if number < HEALTHY else written
        picked = rng.integers(len(ends), size=A_ROUND)
        parts = [slice(ends[i] - observed.lengths[i], ends[i]) for i in picked]
        drawn = tuple(_response(observed, part, _ranks(chances[:, part], rng)) for part in parts)
        (level,) = detector.update(TrafficRound("smol", number, float(number), (name,), drawn))
        if number >= HEALTHY and level.log_e >= LOG_A:
            return number - HEALTHY + A_ROUND
    return MOST


def _ranks(chances: Doubles, rng: np.random.Generator) -> Doubles:
    """(T,) one a position. chances: (B, T) of each bin"""
    bins, positions = chances.shape
    drawn = (rng.random(positions) * chances.sum(axis=0) > chances.cumsum(axis=0)).sum(axis=0)
    ranks: Doubles = (np.minimum(drawn, bins - 1) + rng.random(positions)) / bins
    return ranks


def _response(observed: Observed, part: slice, ranks: Doubles) -> TrafficScore:
    """As the detector reads it."""
    edges = (observed.tokens.ranks_weaker, observed.tokens.ranks_stronger)
    weaker, stronger = (edge[:, part].sum(axis=1).astype(np.float32) for edge in edges)
    return TrafficScore(
        observed.cell.adapter, "r", "", 0.0, ScoringMode.SAMPLED, len(ranks), ranks=ranks.astype(np.float32),
        ranks_weaker=weaker, ranks_stronger=stronger, rank_toll=ROUNDING * len(ranks),
    )  # fmt: skip
