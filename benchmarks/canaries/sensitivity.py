"""Sensitivity: rounds and tokens until the page, at the fleet's A of 2.1e9, for each adapter of the zoo.

Each fault is replayed once on every enrolled canary; rounds are drawn from those replays by the schedule.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.figures import Figure, at_least, at_most, context
from benchmarks.zoo import broken
from benchmarks.zoo.enrolled_base import (
    BUDGET,
    LOG_A,
    MANY,
    SEED,
    EnrolledBase,
    enrolled,
    monitor_rounds,
    replayed,
    round_of,
    rules,
    serving,
)
from benchmarks.zoo.world import World
from detectors.canaries.tolerance import Tolerances
from detectors.evidence.e_detector import advance, fresh, grid, level
from detectors.records import Measurement
from probes.enrolment.settings import EnrolSettings
from probes.golden.record import Golden
from probes.runner import BatchShape, Target

ROUNDS, REPEATS = 6, 5
RULE = Tolerances()
# Strength, tolerance, and whether it is promised.
FINE = ((0.99, 0.005, True), (0.998, 0.001, False))
HALVED_EACH = 4  # few adapters: their bfloat16 enrolment takes as long as the one in float32


@dataclass(frozen=True, slots=True)
class AlarmRounds:
    """One adapter under one fault, REPEATS times from evidence 0. rounds: until the alarm, None if more than ROUNDS."""

    adapter: str
    rounds: tuple[int | None, ...]
    tokens: tuple[int, ...]

    @property
    def worst(self) -> int:
        return max(ROUNDS + 1 if number is None else number for number in self.rounds)

    @property
    def first_round(self) -> float:
        return float(np.mean([number == 1 for number in self.rounds]))


def measure(world: World, quick: bool) -> list[Figure]:
    """quick: two adapters of each base in bfloat16; the number of bases is the world's."""
    enrolled_bases = world.enrolled_bases
    figures = [*_zoo(enrolled_bases)]
    figures += _not_applied(enrolled_bases)
    for scale in (0.9, 1.1):
        outcomes = [outcome for enrolled_base in enrolled_bases for outcome in _scaled(enrolled_base, scale, 0.05)]
        share = 100 * float(np.mean([outcome.first_round for outcome in outcomes]))
        figures.append(at_least(f"strength x{scale} at tolerance 5 %: alarms in the first round, zoo", share, "%", 100))
    figures += _four_bits(world, enrolled_bases)
    return [*figures, *_fine(world, quick)]


def _zoo(enrolled_bases: Sequence[EnrolledBase]) -> Iterator[Figure]:
    """The adapters that the figures rest on, weak ones included."""
    n_adapters, what = (
        sum(len(_monitorable(enrolled_base)) for enrolled_base in enrolled_bases),
        "zoo: adapters enrolled and monitorable",
    )
    yield (
        at_least(what, n_adapters, "adapters", 20)
        if len(enrolled_bases) > 1
        else context(what, n_adapters, "adapters of one base")
    )
    refused = {name: why for enrolled_base in enrolled_bases for name, why in enrolled_base.refused.items()}
    for name, why in refused.items():
        yield context(f"zoo: {name} is unmonitorable ({why[:90]})", 0, "")
    gaps = [
        np.mean([m.kl_served_base for m in enrolled_base.healthy[name].values()])
        for enrolled_base in enrolled_bases
        for name in enrolled_base.goldens
    ]
    yield context("zoo: smallest mean gap KL(adapter || base)", float(min(gaps)), "nats per token")
    yield context("zoo: largest mean gap KL(adapter || base)", float(max(gaps)), "nats per token")


def _monitorable(enrolled_base: EnrolledBase) -> dict[str, Golden]:
    return {name: golden for name, golden in enrolled_base.goldens.items() if golden.power.monitorable}


def alarm_rounds(golden: Golden, measured: Mapping[str, Measurement], tolerance: float) -> AlarmRounds:
    """Draw REPEATS times ROUNDS rounds and monitor them."""
    outcomes = []
    for repeat in range(REPEATS):
        numbers = range(repeat * ROUNDS, (repeat + 1) * ROUNDS)
        outcomes.append(monitor_rounds([round_of(golden, measured, number) for number in numbers], rules(tolerance)))
    return AlarmRounds(
        golden.adapter, tuple(outcome.rounds for outcome in outcomes), tuple(outcome.tokens for outcome in outcomes)
    )


def _scaled(
    enrolled_base: EnrolledBase, scale: float, tolerance: float, shape: BatchShape = MANY
) -> Iterator[AlarmRounds]:
    for name, golden in _monitorable(enrolled_base).items():
        measured = replayed(enrolled_base.runner, name, golden.canaries, Target(name, scale=scale), shape=shape)
        yield alarm_rounds(golden, measured, tolerance)


def _not_applied(enrolled_bases: Sequence[EnrolledBase]) -> Iterator[Figure]:
    outcomes, floors = [], []
    for enrolled_base in enrolled_bases:
        for name, golden in _monitorable(enrolled_base).items():
            measured = replayed(enrolled_base.runner, name, golden.canaries, Target(None))
            outcomes.append(alarm_rounds(golden, measured, 0.05))
            floors += [_least(golden, repeat) for repeat in range(REPEATS)]
    what = "adapter not applied, zoo"
    yield at_most(f"{what}: most rounds to the alarm", max(outcome.worst for outcome in outcomes), "rounds", 1)
    yield at_most(
        f"{what}: most tokens scored to it", max(max(outcome.tokens) for outcome in outcomes), "tokens", BUDGET
    )
    draws, tokens = np.array(floors).T
    yield at_most(f"{what}: draws that would have been enough", float(draws.max()), "draws", 9)
    yield context(f"{what}: mean scored tokens of those draws (stretch: 110)", float(tokens.mean()), "tokens")


def _least(golden: Golden, repeat: int) -> tuple[int, int]:
    """Draws, all beyond tolerance, until the mean over the bets passes the threshold; tokens of the distinct ones."""
    rng, share = np.random.default_rng([SEED, repeat]), golden.tolerances.share
    drawn: list[int] = []
    while True:
        drawn.append(int(rng.integers(len(golden.pool))))
        log_m = advance(fresh(1, len(grid(share))), np.ones((1, len(drawn)), dtype=np.bool_), share)
        if level(log_m)[0] >= LOG_A:
            return len(drawn), sum(len(golden.pool[index].forced) for index in set(drawn))


def _four_bits(world: World, enrolled_bases: Sequence[EnrolledBase]) -> Iterator[Figure]:
    outcomes, faulty, benign, strengths = [], [], [], []
    for enrolled_base in enrolled_bases:
        out = world.scratch / "four bits" / enrolled_base.base.name
        base = out if out.is_dir() else broken.rounded(enrolled_base.base, out, 4, 0)
        with serving(enrolled_base.members, base=base) as runner:
            for name, golden in _monitorable(enrolled_base).items():
                measured = replayed(runner, name, golden.canaries, Target(name))
                outcomes.append(alarm_rounds(golden, measured, 0.05))
                strengths.append(float(np.mean([m.scale for m in measured.values()])))
                faulty += [max(abs(m.scale - 1), m.distortion**0.5) for m in measured.values()]
                floors = [canary.reference.noise for canary in golden.canaries]
                benign += [max(floor.scale, floor.distortion) for floor in floors]
    share = 100 * float(np.mean([outcome.first_round for outcome in outcomes]))
    # A canary's noise floor is its largest benign replay: against all benign replays the area would be larger still.
    yield at_least("4-bit base, zoo: AUC of one canary against its benign replays", _area(faulty, benign), "", 0.999)
    yield at_least("4-bit base, zoo: adapters that alarm in the first round", share, "%", 100)
    slow = sum(outcome.worst > ROUNDS for outcome in outcomes)
    yield context(f"4-bit base, zoo: adapters without alarm in {ROUNDS} rounds", slow, f"of {len(outcomes)}")
    within = sum(abs(strength - 1) <= RULE.after_release for strength in strengths)
    what = "4-bit base, zoo: adapters within the 25 % that are allowed at most on a base that moved"
    yield context(what, within, f"of {len(outcomes)}")
    yield context("4-bit base, zoo: strength left, weakest adapter", min(strengths), "x")


def _area(faulty: Sequence[float], benign: Sequence[float]) -> float:
    """Area under the ROC curve: the probability that a faulty value exceeds a benign one, ties counted half."""
    ordered, values = np.sort(benign), np.asarray(faulty)
    below = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    return float(below.mean()) / 2 / len(ordered)


def _fine(world: World, quick: bool) -> Iterator[Figure]:
    """Small losses at fine tolerances, in the default configuration: float32, whatever type the files are stored in."""
    for strength, tolerance, is_promised in FINE:
        outcomes = [
            outcome
            for enrolled_base in world.enrolled_bases
            for outcome in _scaled(enrolled_base, strength, tolerance, BatchShape())
        ]
        what = f"strength x{strength} at tolerance {100 * tolerance:g} %, zoo"
        share = 100 * float(np.mean([outcome.first_round for outcome in outcomes]))
        alarms = f"{what}: alarms in the first round"
        yield at_least(alarms, share, "%", 100) if is_promised else context(f"{alarms} (stretch: 100)", share, "%")
        slowest = max(outcome.worst for outcome in outcomes)
        yield context(f"{what}: most rounds to the alarm, of {len(outcomes)} adapters", slowest, "rounds")
    yield from _in_bfloat16(world, quick)


def _in_bfloat16(world: World, quick: bool) -> Iterator[Figure]:
    """The same loss where ``runner_settings: {dtype: bfloat16}`` saves memory: enrolled so, with its own battery."""
    strength, tolerance, _ = FINE[0]
    settings = EnrolSettings(base="bf16", at=0.0, log_threshold=LOG_A, tolerances=Tolerances(scale=tolerance))
    outcomes, noise, total = [], [], 0
    for members in world.members:
        chosen = members[: 2 if quick else HALVED_EACH]
        with serving(chosen, dtype="bfloat16") as runner:
            enrolled_base = enrolled(chosen, runner, settings)
            total += len(chosen)
            noise += [c.reference.noise.scale for golden in enrolled_base.goldens.values() for c in golden.canaries]
            outcomes += [
                *_scaled(enrolled_base, strength, tolerance, BatchShape())
            ]  # batched as in rounds: in bfloat16 that matters
    hits = sum(outcome.first_round for outcome in outcomes)
    what = f"option dtype: bfloat16, strength x{strength} at tolerance {100 * tolerance:g} %, zoo"
    yield context(f"{what}: alarms in the first round, of all adapters", 100 * hits / total, "%")
    yield context(f"{what}: adapters monitorable at that tolerance", len(outcomes), f"of {total}")
    yield context(f"{what}: median noise floor of a canary's strength", float(np.median(noise)), "")
    slowest = max((outcome.worst for outcome in outcomes), default=ROUNDS + 1)
    yield context(f"{what}: most rounds to the alarm, of the monitorable ones", slowest, "rounds")
