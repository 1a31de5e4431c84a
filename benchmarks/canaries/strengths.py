"""Is a wrong strength named, and how exactly? Strengths drawn at random, those between the knots of the recorded curve,
and rsLoRA taken for LoRA or the reverse, on every adapter of the zoo.

A case counts where the evidence alarms within twelve rounds of 512 tokens. Named within 3 %: the cause is the strength
and the figure in its sentence is within 3 % of the true one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.canaries.after_the_alarm import Remembered, refined
from benchmarks.figures import Figure, at_least, console, context
from benchmarks.zoo.enrolled_base import EnrolledBase, answered, compared, monitor_rounds, round_of, rules
from benchmarks.zoo.world import World
from detectors.canaries.tolerance import Tolerances
from detectors.diagnosis.record import Diagnosis
from detectors.diagnosis.root_cause import NOTHING_LEFT, diagnose
from detectors.diagnosis.strength_arithmetic import slips
from detectors.records import Cause
from probes.runner import Target

SEED, ROUNDS, WITHIN, RANDOM = 83, 12, 0.03, 12
BETWEEN_KNOTS = (0.65, 1.4, 1.75)
WEAKEST, STRONGEST = 0.05, 8.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """kind: "random", "x1.75" ... or "flipped rsLoRA"; strength: the true one

    before, after: by the alarm's round, and by replay
    is_base: the answers are the base's within what counts as nothing left
    """

    adapter: str
    kind: str
    strength: float
    before: Diagnosis
    after: Diagnosis
    is_base: bool


def measure(world: World, quick: bool = False) -> list[Figure]:
    outcomes = [
        outcome for base in world.enrolled_bases for outcome in _outcomes(base, RANDOM // 2 if quick else RANDOM)
    ]
    for outcome in outcomes:
        if not _is_near(outcome, outcome.after) and not outcome.is_base:
            console.print(f"missed: {outcome.adapter} {outcome.kind} x{outcome.strength:.3f}: {_words(outcome.after)}")
    return list(_figures(outcomes))


def _outcomes(enrolled_base: EnrolledBase, random: int) -> Iterator[Outcome]:
    runner, rng = Remembered(enrolled_base.runner), np.random.default_rng(SEED)
    for name, golden in enrolled_base.goldens.items():
        drawn = np.exp(rng.uniform(math.log(WEAKEST), math.log(STRONGEST), random))
        flipped = {"flipped rsLoRA": golden.rank**0.5, "flipped rsLoRA ": golden.rank**-0.5}
        wanted = [("random", float(s)) for s in drawn] + [(f"x{s:g}", s) for s in BETWEEN_KNOTS]
        wanted += [(kind.strip(), strength) for kind, strength in flipped.items()]
        clean = answered(enrolled_base.runner, golden.canaries, Target(None))
        for kind, strength in wanted if golden.power.monitorable else ():
            served = answered(enrolled_base.runner, golden.canaries, Target(name, scale=strength))
            measured = compared(name, golden.canaries, served, clean)
            rounds = [round_of(golden, measured, number) for number in range(ROUNDS)]
            alarm = monitor_rounds(rounds, rules())
            if alarm.rounds is None:
                continue
            last = rounds[alarm.rounds - 1]
            before = diagnose(last, Tolerances())
            after = refined(runner, golden, alarm, last).diagnosis
            left = before.means.retention if before.means else math.nan
            yield Outcome(name, kind, strength, before, after, abs(left) <= NOTHING_LEFT)


def _figures(outcomes: Sequence[Outcome]) -> Iterator[Figure]:
    kinds = ["random", *(f"x{s:g}" for s in BETWEEN_KNOTS), "flipped rsLoRA"]
    for kind in kinds:
        of_kind = [outcome for outcome in outcomes if outcome.kind == kind and not outcome.is_base]
        what = f"strength {kind}, zoo: named within 3 %"
        before, after = ([_is_near(o, getattr(o, side)) for o in of_kind] for side in ("before", "after"))
        yield context(f"{what} by the alarm's round, of {len(of_kind)} alarms", 100 * float(np.mean(before)), "%")
        yield at_least(f"{what} after replay, of {len(of_kind)} alarms", 100 * float(np.mean(after)), "%", 100)
    flipped = [outcome for outcome in outcomes if outcome.kind == "flipped rsLoRA" and not outcome.is_base]
    named = [any("rsLoRA" in slip for slip in _slips(outcome)) for outcome in flipped]
    yield at_least(f"flipped rsLoRA, zoo: said so, of {len(flipped)} alarms", 100 * float(np.mean(named)), "%", 100)


def _is_near(outcome: Outcome, diagnosis: Diagnosis) -> bool:
    match = diagnosis.match
    return (
        diagnosis.cause is Cause.WRONG_STRENGTH
        and match is not None
        and abs(match.value / outcome.strength - 1.0) <= WITHIN
    )


def _slips(outcome: Outcome) -> tuple[str, ...]:
    match = outcome.after.match
    return slips(match.value, outcome.after.rank, outcome.after.alpha) if match else ()


def _words(diagnosis: Diagnosis) -> str:
    match = diagnosis.match
    return f"{diagnosis.cause.value} {match.names[0]} {match.value:.3f}" if match else diagnosis.cause.value
