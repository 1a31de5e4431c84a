"""False alarms in ten thousand healthy rounds from recorded benign replays; each configuration is tested against a
noise floor that it did not contribute to.

Every canary of the golden records is replayed in every benign configuration of the battery. For each configuration the
noise floors are computed again without it, as enrolment does: on a sample of as many canaries, or of each canary where
noise is not negligible. The replays of all canaries in it are scored against them, and rounds are drawn from those
scores as the schedule draws canaries. A configuration that moves more than the tolerated share of the pool would alarm
here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from agent.assemble import log_threshold
from agent.config import Config
from agent.worker.watched_bases import goldens_of, runner_of
from benchmarks.figures import Figure, at_most, context, exactly
from detectors.canaries.tolerance import Tolerances, beyond_tolerance
from detectors.evidence.e_detector import advance, fresh, grid, level
from detectors.records import CanarySplit, Measurement, NoiseFloor
from probes.enrolment.noise_battery import SAMPLE, negligible, own_floors, pooled_floor, replay_battery, sampled
from probes.golden.record import Golden

ROUNDS, DRAWS, SEED, SMALL_A = 10_000, 16, 23, 100.0
Scores = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ScoredReplays:
    """One adapter's pool in one benign configuration: scores against a noise floor computed without that configuration.

    deviation: |mean retention - 1| of the held-out canaries
    """

    adapter: str
    configuration: str
    scores: Scores
    deviation: float


def measure(config: Config, quick: bool) -> list[Figure]:
    """Replay the battery and draw the rounds. quick: eight canaries of each half."""
    recorded = _replayed(config, 8 if quick else None)
    tolerance = Tolerances()
    drawn = _levels(recorded, tolerance.share)
    threshold = log_threshold(config)
    alarms, small = int((drawn >= threshold).sum()), _alarms(recorded, tolerance.share, np.log(SMALL_A))
    pool = sum(len(replays.scores) for replays in recorded)
    return [
        exactly(
            f"healthy rounds, {ROUNDS} drawn: alarms at the fleet's threshold of {threshold:.1f} nats",
            alarms,
            "alarms",
            0,
        ),
        at_most(f"healthy rounds, {ROUNDS} drawn: alarms at A = {SMALL_A:.0f}", small, "alarms", ROUNDS / SMALL_A),
        context("distinct benign replays behind them: configurations x canaries, all adapters", pool, "replays"),
        context(
            "configurations, each left out of enrolment once", len({replays.configuration for replays in recorded}), ""
        ),
        context(
            "of those replays beyond tolerance", sum(int(replays.scores.sum()) for replays in recorded), f"of {pool}"
        ),
        at_most(
            "largest |retention - 1| of any configuration", max(replays.deviation for replays in recorded), "", 1e-3
        ),
        context("largest level of the e-detector in any healthy round", float(drawn.max()), "nats"),
    ]


def _replayed(config: Config, few: int | None) -> list[ScoredReplays]:
    model = config.models[0]
    runner = runner_of(config, model)
    runner.open()
    recorded = []
    try:
        for name, golden in goldens_of(config, model).items():
            if not isinstance(golden, Golden):
                raise RuntimeError(golden.detail)
            canaries = [*golden.pool[:few], *golden.held_out[:few]]
            battery = replay_battery(runner, name, canaries, lambda *_: None, lambda: False)
            recorded += [scored(name, left_out, battery) for left_out in battery]
    finally:
        runner.close()
    return recorded


def scored(adapter: str, left_out: str, battery: Mapping[str, Sequence[Measurement]]) -> ScoredReplays:
    """One configuration of an adapter's battery, scored against the floor that enrolment would record without it."""
    measurements = battery[left_out]
    sample = sampled([m.comparison.reference for m in measurements], SAMPLE, SEED)
    of_sample = {name: [replays[index] for index in sample] for name, replays in battery.items()}
    tolerances, pooled = Tolerances(), pooled_floor(of_sample, without=left_out)
    floors = own_floors(battery, without=left_out)
    if negligible(pooled, tolerances.scale):
        floors = dict.fromkeys(floors, pooled)
    pool = [m for m in measurements if m.comparison.reference.split is CanarySplit.SELECTED]
    held_out = [m.retention for m in measurements if m.comparison.reference.split is CanarySplit.HELD_OUT]
    scores = np.array([beyond_tolerance(with_floor(m, floors), tolerances) for m in pool])
    return ScoredReplays(adapter, left_out, scores, abs(float(np.mean(held_out)) - 1))


def with_floor(measurement: Measurement, floors: Mapping[str, NoiseFloor]) -> Measurement:
    """The same measurement with another noise floor."""
    comparison = measurement.comparison
    reference = replace(comparison.reference, noise=floors[comparison.reference.canary])
    return replace(measurement, comparison=replace(comparison, reference=reference))


def _drawn(recorded: Sequence[ScoredReplays], round_number: int) -> NDArray[np.float64]:
    """Scores of one round: canaries drawn at random with replacement.

    Each adapter and configuration stays for an equal share of consecutive rounds, as a deployment would.
    """
    rng = np.random.default_rng((SEED, round_number))
    replays = recorded[round_number * len(recorded) // ROUNDS]
    return replays.scores[rng.integers(len(replays.scores), size=DRAWS)].astype(np.float64)


def _levels(recorded: Sequence[ScoredReplays], share: float) -> NDArray[np.float64]:
    """The level after each round of one e-process that is never restarted."""
    log_m, levels = fresh(1, len(grid(share))), []
    for number in range(ROUNDS):
        log_m = advance(log_m, _drawn(recorded, number)[None, :], share)
        levels.append(level(log_m)[0])
    return np.array(levels)


def _alarms(recorded: Sequence[ScoredReplays], share: float, threshold: float) -> int:
    """Alarms of an e-process that restarts at each alarm."""
    log_m, alarms = fresh(1, len(grid(share))), 0
    for number in range(ROUNDS):
        log_m = advance(log_m, _drawn(recorded, number)[None, :], share)
        if level(log_m)[0] >= threshold:
            alarms, log_m = alarms + 1, fresh(1, len(grid(share)))
    return alarms
