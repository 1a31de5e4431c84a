"""Do the noise floors hold? The battery of every adapter of the zoo, each configuration tested against the floor
of a sample of canaries without it, and a million rounds drawn from those scores while the configuration changes now and
then.

A check of the floors and of nothing more: in float32 all configurations answer alike to seven digits, and the others of
a class are left in when one of it is left out. Whether a change of a kind that enrolment has never met pages, and at
which tolerance, is measured by benign_tier.py.

Drawing a fixed benign replay again adds no new observation: the figure rests on the number of distinct replays, which
is reported beside it, and on the random draws, which the guarantee rests on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.canaries.benign import ScoredReplays, scored
from benchmarks.figures import Figure, at_most, context, exactly
from benchmarks.zoo.enrolled_base import LOG_A, EnrolledBase, never, silent
from benchmarks.zoo.world import World
from detectors.canaries.tolerance import Tolerances
from detectors.evidence.e_detector import advance, fresh, grid, level
from probes.enrolment.noise_battery import replay_battery

ADAPTER_ROUNDS, STREAMS, DRAWS, SEED = 1_000_000, 2_000, 16, 37
DWELL = 50  # rounds that a configuration stays before the next one, as in deployments
SMALL_A = 1e3
Counts = NDArray[np.int64]


def measure(world: World, quick: bool) -> list[Figure]:
    """quick: a tenth of the rounds."""
    recorded = [replays for enrolled_base in world.enrolled_bases for replays in _recorded(enrolled_base)]
    share, rounds = Tolerances().share, ADAPTER_ROUNDS // (10 if quick else 1)
    alarms, highest = _alarms(recorded, rounds, share, LOG_A)
    often, _ = _alarms(recorded, rounds, share, math.log(SMALL_A))
    n_replays, beyond = (
        sum(len(replays.scores) for replays in recorded),
        sum(int(replays.scores.sum()) for replays in recorded),
    )
    what = f"{rounds:.0e} benign adapter-rounds of the zoo, every configuration left out once"
    return [
        exactly(f"{what}: false pages at A = 2.1e9", alarms, "pages", 0),
        at_most(f"{what}: false pages at A = 1e3", often, "pages", rounds / SMALL_A),
        context(f"{what}: largest level of the evidence", highest, "nats"),
        context("zoo: distinct benign replays, configurations x canaries of all adapters", n_replays, "replays"),
        context("zoo: of those beyond tolerance", beyond, f"of {n_replays}"),
        context("zoo: configurations of the battery", len({replays.configuration for replays in recorded}), ""),
        at_most(
            "zoo: largest |retention - 1| of any configuration",
            max(replays.deviation for replays in recorded),
            "",
            1e-3,
        ),
    ]


def _recorded(enrolled_base: EnrolledBase) -> list[ScoredReplays]:
    recorded = []
    for name, golden in enrolled_base.goldens.items():
        battery = replay_battery(enrolled_base.runner, name, golden.canaries, silent, never)
        recorded += [scored(name, left_out, battery) for left_out in battery]
    return recorded


def _alarms(recorded: Sequence[ScoredReplays], rounds: int, share: float, threshold: float) -> tuple[int, float]:
    """Alarms of STREAMS e-processes that restart at each alarm, and the largest level that any of them reached."""
    rng = np.random.default_rng(SEED)
    log_m, bets, alarms, highest = fresh(STREAMS, len(grid(share))), len(grid(share)), 0, -math.inf
    adapters = [np.array(rows) for rows in _by_adapter(recorded)]
    adapter_of_stream = rng.integers(len(adapters), size=STREAMS)
    shares = np.array([replays.scores.mean() for replays in recorded])
    for number in range(rounds // STREAMS):
        if number % DWELL == 0:
            present = np.array([rng.choice(adapters[adapter]) for adapter in adapter_of_stream])
        # Draws with replacement from a pool: the number beyond tolerance is binomial with the pool's own share.
        ones = rng.binomial(DRAWS, shares[present])
        log_m = advance(log_m, np.arange(DRAWS) < ones[:, None], share)
        levels = level(log_m)
        highest = max(highest, float(levels.max()))
        alarmed = levels >= threshold
        alarms += int(alarmed.sum())
        log_m[alarmed] = fresh(int(alarmed.sum()), bets)
    return alarms, highest


def _by_adapter(recorded: Sequence[ScoredReplays]) -> list[list[int]]:
    names = dict.fromkeys(replays.adapter for replays in recorded)
    return [[index for index, replays in enumerate(recorded) if replays.adapter == name] for name in names]
