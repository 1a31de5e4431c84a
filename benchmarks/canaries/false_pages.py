"""Would it cry wolf in a million healthy rounds? The battery of every adapter of the zoo, each configuration tried
against floors that were learnt without it, and rounds drawn from those scores while configurations come and go.

A fixed benign replay scored again is no new observation: what carries the figure is the number of distinct replays,
which is told beside it, and that the draws are random, which is what the guarantee rests on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.canaries.benign import Recorded, scored
from benchmarks.figures import Figure, at_most, context, exactly
from benchmarks.zoo.stall import LOG_A, Stall, never, silent
from benchmarks.zoo.world import World
from detectors.canaries.tolerance import Tolerances
from detectors.evidence.e_detector import advance, fresh, grid, level
from probes.enrolment.noise_battery import replay_battery

ADAPTER_ROUNDS, STREAMS, DRAWS, SEED = 1_000_000, 2_000, 16, 37
STAYS = 50  # rounds that a configuration stays before another one comes, as deployments do
SMALL_A = 1e3
Counts = NDArray[np.int64]


def measure(world: World, quick: bool) -> list[Figure]:
    """quick: a tenth of the rounds."""
    recorded = [one for stall in world.stalls for one in _recorded(stall)]
    share, rounds = Tolerances().share, ADAPTER_ROUNDS // (10 if quick else 1)
    alarms, loudest = _alarms(recorded, rounds, share, LOG_A)
    often, _ = _alarms(recorded, rounds, share, math.log(SMALL_A))
    replays, beyond = sum(len(one.scores) for one in recorded), sum(int(one.scores.sum()) for one in recorded)
    what = f"{rounds:.0e} benign adapter-rounds of the zoo, every configuration left out once"
    return [
        exactly(f"{what}: false pages at A = 2.1e9", alarms, "pages", 0),
        at_most(f"{what}: false pages at A = 1e3", often, "pages", rounds / SMALL_A),
        context(f"{what}: largest level of the evidence", loudest, "nats"),
        context("zoo: distinct benign replays, configurations x canaries of all adapters", replays, "replays"),
        context("zoo: of those beyond tolerance", beyond, f"of {replays}"),
        context("zoo: configurations of the battery", len({one.configuration for one in recorded}), ""),
        at_most("zoo: largest |retention - 1| of any configuration", max(one.deviation for one in recorded), "", 1e-3),
    ]


def _recorded(stall: Stall) -> list[Recorded]:
    found = []
    for name, golden in stall.goldens.items():
        battery = replay_battery(stall.runner, name, golden.canaries, silent, never)
        found += [scored(name, left_out, battery) for left_out in battery]
    return found


def _alarms(recorded: Sequence[Recorded], rounds: int, share: float, threshold: float) -> tuple[int, float]:
    """Alarms of STREAMS processes that restart at each, and the largest level that any of them reached."""
    rng = np.random.default_rng(SEED)
    log_m, bets, alarms, loudest = fresh(STREAMS, len(grid(share))), len(grid(share)), 0, -math.inf
    adapters = [np.array(rows) for rows in _by_adapter(recorded)]
    mine = rng.integers(len(adapters), size=STREAMS)
    shares = np.array([one.scores.mean() for one in recorded])
    for number in range(rounds // STREAMS):
        if number % STAYS == 0:
            present = np.array([rng.choice(adapters[adapter]) for adapter in mine])
        # Draws with replacement from a pool: the number beyond tolerance is binomial with the pool's own share.
        ones = rng.binomial(DRAWS, shares[present])
        log_m = advance(log_m, np.arange(DRAWS) < ones[:, None], share)
        levels = level(log_m)
        loudest = max(loudest, float(levels.max()))
        alarmed = levels >= threshold
        alarms += int(alarmed.sum())
        log_m[alarmed] = fresh(int(alarmed.sum()), bets)
    return alarms, loudest


def _by_adapter(recorded: Sequence[Recorded]) -> list[list[int]]:
    names = dict.fromkeys(one.adapter for one in recorded)
    return [[index for index, one in enumerate(recorded) if one.adapter == name] for name in names]
