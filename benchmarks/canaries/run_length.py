"""How long until a false alarm, at the edge of the null hypothesis? ``python -m benchmarks.canaries.run_length [--json
FILE]``.

Synthetic pools of canaries whose deviations are noise; everything after that is what runs in production: the tolerance
rule, draws at random with replacement, the e-detector. Each world stays within the null hypothesis, most of them at its
very edge, where alarms do occur: given the past, 5 % of the pool is beyond tolerance.

- AR(1): deviations are autocorrelated noise, so the same canaries are beyond for many rounds. Each round is scaled so
  that exactly the two largest deviations of forty exceed the tolerance (the null hypothesis allows no more).
- jumps: the deployment changes its configuration about every 50 rounds; each has two canaries of its own far beyond.
- left out: the same jumps, with noise floors from five configurations; the sixth was not in the battery; each in turn.

Average run length: rounds of all runs over alarms, with a restart at each; the lower bound is 99 %, by a Poisson count
of alarms. The identity E[tau] = E[M at tau], at one draw a round, is sharp: an equality at the edge, so that both too
many alarms and a needlessly slow process fail it (docs/mathematics.md#how-figures-are-checked).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from benchmarks.figures import Figure, arguments, at_least, at_most, context, report
from detectors.canaries.tolerance import Tolerances
from detectors.evidence.e_detector import nats
from detectors.evidence.e_process_bank import ProcessArrays, move_counts

Doubles = NDArray[np.float64]
Flags = NDArray[np.bool_]

SEED, SHARE, BETS, DRAWS = 31, 0.05, 8, 16
POOL, LOUD, CONFIGURATIONS, DWELL = 40, 2, 6, 50
NOISE, FLOOR, FAR = 0.004, 0.01, 0.15
THRESHOLDS = (1e2, 1e3, 1e4)


@dataclass(frozen=True, slots=True)
class World:
    """memory: phi of the AR(1) noise; jumps: between configurations; left_out: the noise floors lack one of them."""

    name: str
    memory: float
    jumps: bool = False
    left_out: bool = False


WORLDS = (
    World("no memory", 0.0),
    World("AR(1) .5", 0.5),
    World("AR(1) .9", 0.9),
    World("jumps, AR(1) .9", 0.9, jumps=True),
    World("jumps, each left out, AR(1) .9", 0.9, jumps=True, left_out=True),
)
EDGES = (WORLDS[2], WORLDS[3])


def measure(quick: bool) -> list[Figure]:
    """Run lengths at three thresholds in every world, and the identity in the two hardest at the edge."""
    runs, rounds = (125, 4_000) if quick else (125, 40_000)
    figures = [context("run length: rounds behind each figure", runs * rounds, "rounds")]
    figures += [figure for world in WORLDS for figure in _run_lengths(world, runs, rounds)]
    for world in EDGES:
        for a in THRESHOLDS[:1] if quick else THRESHOLDS[:2]:
            tau, m = first_alarms(world, a, runs=400 if quick else 1_000)
            figures += _identity(world, a, tau, m)
    return figures


def beyond(deviations: Doubles, floors: Doubles, tolerances: Tolerances) -> Flags:
    """The rule of detectors/canaries/tolerance.py for many canaries at once; a test compares the two."""
    flags: Flags = np.abs(deviations) > tolerances.allowed_deviation("") + floors
    return flags


def pools(world: World, runs: int, rng: np.random.Generator) -> Iterator[Flags]:
    """(runs, POOL) which canaries are beyond tolerance in each round, without end."""
    worlds = _jumping(world, runs, rng) if world.jumps else _at_the_edge(world, runs, rng)
    for deviations, floors in worlds:
        yield beyond(deviations, floors, Tolerances(share=SHARE))


def drawn(flags: Flags, draws: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """(runs,) how many of a round's draws are beyond."""
    picks = rng.integers(POOL, size=(len(flags), draws))
    return np.count_nonzero(np.take_along_axis(flags, picks, axis=1), axis=1)


def count_alarms(world: World, runs: int, rounds: int, thresholds: Sequence[float]) -> list[int]:
    """Alarms in ``runs * rounds`` rounds at each threshold, every process restarted at its own alarms."""
    rng = np.random.default_rng([SEED, WORLDS.index(world)])
    processes, alarms = [ProcessArrays.fresh(runs, BETS) for _ in thresholds], [0] * len(thresholds)
    for number, flags in zip(range(rounds), pools(world, runs, rng), strict=False):
        ones = drawn(flags, DRAWS, rng)
        for i, (rows, a) in enumerate(zip(processes, thresholds, strict=True)):
            move_counts(rows, ones, DRAWS, SHARE, float(number))
            passed = nats(rows.m) >= math.log(a)
            rows.m[passed] = 0.0
            alarms[i] += int(np.count_nonzero(passed))
    return alarms


def first_alarms(world: World, a: float, runs: int) -> tuple[Doubles, Doubles]:
    """(runs,) round of the first alarm, and mean M in that round, at one draw a round; no run is censored."""
    rng = np.random.default_rng([SEED, 7, WORLDS.index(world), int(a)])
    rows, tau, m = ProcessArrays.fresh(runs, BETS), np.zeros(runs), np.zeros(runs)
    for number, flags in enumerate(pools(world, runs, rng), start=1):
        move_counts(rows, drawn(flags, 1, rng), 1, SHARE, float(number))
        now = np.exp(nats(rows.m))
        new = (now >= a) & (tau == 0)
        tau[new], m[new] = number, now[new]
        if tau.all():
            break
    return tau, m


def _run_lengths(world: World, runs: int, rounds: int) -> Iterator[Figure]:
    # A process that starts at 0 cannot alarm at first: runs much shorter than A would overstate the run length.
    thresholds = [a for a in THRESHOLDS if 4 * a <= rounds]
    for a, alarms in zip(thresholds, count_alarms(world, runs, rounds, thresholds), strict=True):
        yield at_least(
            f"run length, {world.name}, A = {a:.0f}: lower 99 % bound", runs * rounds / _most(alarms), "rounds", a
        )


def _identity(world: World, a: float, tau: Doubles, m: Doubles) -> Iterator[Figure]:
    differences = tau - m
    errors = abs(float(differences.mean())) / (float(differences.std(ddof=1)) / math.sqrt(len(differences)))
    name = f"first alarm, {world.name}, A = {a:.0f}"
    yield at_most(f"{name}: mean round apart from mean M there, of {len(tau)} runs", errors, "standard errors", 3.0)
    yield context(f"{name}: mean round", float(tau.mean()), "rounds")
    yield context(f"{name}: mean M", float(m.mean()), "")


def _most(alarms: int) -> float:
    """Upper 99 % bound on the mean of a Poisson count."""
    return float(chi2.ppf(0.99, 2 * (alarms + 1))) / 2.0


def _at_the_edge(world: World, runs: int, rng: np.random.Generator) -> Iterator[tuple[Doubles, Doubles]]:
    """The LOUD largest deviations of each round are just above the tolerance, all others just below it or lower."""
    floors = FLOOR * np.exp(0.5 * rng.standard_normal(POOL))
    allowed = Tolerances().allowed_deviation("") + floors
    for noise in _ar1(world.memory, runs, rng):
        ranked = np.partition(np.abs(noise) / allowed, (-LOUD - 1, -LOUD), axis=1)
        between = (ranked[:, -LOUD - 1] + ranked[:, -LOUD]) / 2.0
        yield noise / between[:, None], floors


def _jumping(world: World, runs: int, rng: np.random.Generator) -> Iterator[tuple[Doubles, Doubles]]:
    """Offsets of the configuration that each run is in, plus noise; LOUD canaries of each configuration are far off."""
    offsets = rng.uniform(-0.02, 0.02, (CONFIGURATIONS, POOL))
    for configuration in range(CONFIGURATIONS):
        offsets[configuration, LOUD * configuration : LOUD * (configuration + 1)] = FAR
    floors = _floors_without_one(offsets, runs) if world.left_out else np.full((runs, POOL), FLOOR)
    now = rng.integers(CONFIGURATIONS, size=runs)
    for noise in _ar1(world.memory, runs, rng):
        jump = rng.random(runs) < 1.0 / DWELL
        now = np.where(jump, rng.integers(CONFIGURATIONS, size=runs), now)
        yield offsets[now] + NOISE * noise, floors


def _floors_without_one(offsets: Doubles, runs: int) -> Doubles:
    """(runs, POOL) 99 % quantiles over all configurations but one; run r leaves out the r-th, cyclically."""
    without = [np.quantile(np.abs(np.delete(offsets, k, axis=0)), 0.99, axis=0) for k in range(CONFIGURATIONS)]
    return np.stack(without)[np.arange(runs) % CONFIGURATIONS]


def _ar1(phi: float, runs: int, rng: np.random.Generator) -> Iterator[Doubles]:
    """(runs, POOL) AR(1) noise of variance 1, started in its stationary distribution, one round at a time."""
    noise = rng.standard_normal((runs, POOL))
    while True:
        yield noise
        noise = phi * noise + math.sqrt(1.0 - phi * phi) * rng.standard_normal((runs, POOL))


if __name__ == "__main__":
    options = arguments(__doc__ or "")
    report(measure(options.quick), SEED, options.json)
