"""Would it ever cry wolf? Ten thousand healthy rounds from recorded benign replays, and every configuration tried
against a tolerance that it did not set.

Every canary of the golden records is replayed in every benign configuration of the battery. For each configuration the
noise floors are learnt again without it, its own replays are scored against them, and rounds are drawn from those
scores as the schedule draws canaries. A configuration that moves more than the tolerated share of the pool would
alarm here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from agent.assemble import goldens_of, log_threshold, runner_of
from agent.config import Config
from benchmarks.figures import Figure, at_most, context, exactly
from detectors.canaries.tolerance import Tolerances, beyond_tolerance
from detectors.evidence.e_detector import advance, fresh, grid, level
from detectors.records import CanarySplit, Measurement, NoiseFloor
from probes.enrolment.noise_battery import noise_floors, replay_battery
from probes.golden.record import Golden

ROUNDS, DRAWS, SEED, SMALL_A = 10_000, 16, 23, 100.0
Scores = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Recorded:
    """Scores of one adapter's pool in one configuration, against floors learnt without it; and its worst retention."""

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
    pool = sum(len(one.scores) for one in recorded)
    return [
        exactly(
            f"healthy rounds, {ROUNDS} drawn: alarms at the fleet's threshold of {threshold:.1f} nats",
            alarms,
            "alarms",
            0,
        ),
        at_most(f"healthy rounds, {ROUNDS} drawn: alarms at A = {SMALL_A:.0f}", small, "alarms", ROUNDS / SMALL_A),
        context("distinct benign replays behind them: configurations x canaries, all adapters", pool, "replays"),
        context("configurations, each left out of enrolment once", len({one.configuration for one in recorded}), ""),
        context("of those replays beyond tolerance", sum(int(one.scores.sum()) for one in recorded), f"of {pool}"),
        at_most("largest |retention - 1| of any configuration", max(one.deviation for one in recorded), "", 1e-3),
        context("largest level of the e-detector in any healthy round", float(drawn.max()), "nats"),
    ]


def _replayed(config: Config, few: int | None) -> list[Recorded]:
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


def scored(adapter: str, left_out: str, battery: Mapping[str, Sequence[Measurement]]) -> Recorded:
    """One configuration of an adapter's battery, judged by floors that were learnt without it."""
    floors, tolerances = noise_floors(battery, without=left_out), Tolerances()
    seen = battery[left_out]
    pool = [m for m in seen if m.comparison.reference.split is CanarySplit.SELECTED]
    held_out = [m.retention for m in seen if m.comparison.reference.split is CanarySplit.HELD_OUT]
    scores = np.array([beyond_tolerance(_with_floor(m, floors), tolerances, moved=False) for m in pool])
    return Recorded(adapter, left_out, scores, abs(float(np.mean(held_out)) - 1))


def _with_floor(measurement: Measurement, floors: Mapping[str, NoiseFloor]) -> Measurement:
    """The same measurement, judged by another noise floor."""
    comparison = measurement.comparison
    reference = replace(comparison.reference, noise=floors[comparison.reference.canary])
    return replace(measurement, comparison=replace(comparison, reference=reference))


def _drawn(recorded: Sequence[Recorded], round_number: int) -> NDArray[np.float64]:
    """Scores of one round: each adapter and configuration stays for its share of the rounds, as a deployment would;
    canaries at random with replacement."""
    rng = np.random.default_rng((SEED, round_number))
    one = recorded[round_number * len(recorded) // ROUNDS]
    return one.scores[rng.integers(len(one.scores), size=DRAWS)].astype(np.float64)


def _levels(recorded: Sequence[Recorded], share: float) -> NDArray[np.float64]:
    """The level after each round of one process that never restarts."""
    log_m, levels = fresh(1, len(grid(share))), []
    for number in range(ROUNDS):
        log_m = advance(log_m, _drawn(recorded, number)[None, :], share)
        levels.append(level(log_m)[0])
    return np.array(levels)


def _alarms(recorded: Sequence[Recorded], share: float, threshold: float) -> int:
    """Alarms of a process that restarts at each."""
    log_m, alarms = fresh(1, len(grid(share))), 0
    for number in range(ROUNDS):
        log_m = advance(log_m, _drawn(recorded, number)[None, :], share)
        if level(log_m)[0] >= threshold:
            alarms, log_m = alarms + 1, fresh(1, len(grid(share)))
    return alarms
