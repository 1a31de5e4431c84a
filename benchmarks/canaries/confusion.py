"""Is the cause that is named the right one? Twelve causes at three severities on every adapter of the zoo, and faults
that no signature was recorded of, which must be called unknown.

A case counts where the evidence alarms within twelve rounds of 512 tokens, at A = 2.1e9 and a tolerance of 5 %; what
is named is the cause in the verdict of that alarm. Cases without an alarm are told apart: nobody is told their cause.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from rich.table import Table

from benchmarks.figures import Figure, at_least, console, context
from benchmarks.zoo.faults import WITNESSED, Case, cases
from benchmarks.zoo.stall import Stall, drawn_like, round_of, rules, watch
from benchmarks.zoo.world import World
from detectors.canaries.tolerance import Tolerances, base_moved, beyond_tolerance
from detectors.diagnosis.root_cause import diagnose, diagnosed_canaries
from detectors.diagnosis.signature_matching import matching_signatures, signature_fits
from detectors.records import Cause, Round

ROUNDS, WANTED, BLOCKS_WANTED = 12, 95.0, 90.0
TOLERANCES = Tolerances()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one case. rounds: to the alarm, None where none came; told: the cause named in it, or after the last
    round; block: the one that is lost, block_told: the one that was named."""

    adapter: str
    truth: Cause
    severity: int
    name: str
    rounds: int | None
    told: Cause
    block: str = ""
    block_told: str = ""

    @property
    def is_right(self) -> bool:
        return self.told is self.truth


def measure(world: World) -> list[Figure]:
    """Replays every case on every stall of the world, and prints the tables."""
    outcomes = [_judged(stall, case) for stall in world.stalls for case in cases(stall, world.scratch / "confusion")]
    table = [one for one in outcomes if not one.block or _in_table(one)]
    console.print(drawing([one for one in table if one.rounds is not None]))
    console.print(missed(table))
    return [*_causes(table), *_unknown(table), *_blocks([one for one in outcomes if one.block])]


def _judged(stall: Stall, case: Case) -> Outcome:
    golden = stall.goldens[case.adapter]
    rounds = [_round(case, round_of(golden, case.answers, number, case.identity)) for number in range(ROUNDS)]
    if case.warm is not None:
        return _judged_warm(case, rounds[0])
    seen = watch(rounds, rules())
    told, block = seen.verdict.cause, ""
    last = rounds[(seen.rounds or ROUNDS) - 1]
    if seen.rounds is None:
        told = diagnose(last, TOLERANCES).cause
    if case.block:
        fits = signature_fits(diagnosed_canaries(last), TOLERANCES.scale)
        block = next((fit.name for fit in matching_signatures(fits)), "")
    return Outcome(case.adapter, case.cause, case.severity, case.name, seen.rounds, told, case.block, block)


def _round(case: Case, plain: Round) -> Round:
    raw, warm = (drawn_like(plain, extra) if extra else () for extra in (case.raw, case.warm))
    return replace(plain, raw=raw, warm=warm)


def _judged_warm(case: Case, round: Round) -> Outcome:
    """The cold canaries are in order and raise no alarm: the warm ones beyond tolerance are the finding."""
    moved = base_moved(round, TOLERANCES)
    share = float(np.mean([beyond_tolerance(m, TOLERANCES, moved) for m in round.warm]))
    shows = 1 if share > TOLERANCES.share else None
    return Outcome(case.adapter, case.cause, case.severity, case.name, shows, diagnose(round, TOLERANCES).cause)


def _in_table(outcome: Outcome) -> bool:
    """One layer, one module and one larger part of each adapter are enough for its row."""
    wanted = ("layers.2", *({"attention"} if outcome.severity == 2 else ()))
    return outcome.name in wanted or (outcome.severity == 1 and outcome.name in ("v_proj", "down_proj"))


def _causes(table: Sequence[Outcome]) -> Iterator[Figure]:
    closed = [one for one in table if one.truth is not Cause.UNKNOWN]
    alarmed = [one for one in closed if one.rounds is not None]
    plain, witnessed = ([one for one in alarmed if (one.truth in WITNESSED) is flag] for flag in (False, True))
    yield _share("cause, zoo: top-1 of those that rest on log-probabilities", plain)
    yield _share("cause, zoo: top-1 of those that rest on another witness too", witnessed)
    yield _share("cause, zoo: top-1 of all alarms", alarmed)
    for severity in range(3):
        yield _share(
            f"cause, zoo: top-1 at severity {severity + 1} of 3", [o for o in alarmed if o.severity == severity]
        )
    for cause in dict.fromkeys(one.truth for one in closed):
        mine = [one for one in alarmed if one.truth is cause]
        if mine:
            yield context(f"cause, zoo: {cause.value} named, of {len(mine)} alarms", _percent(mine), "%")
    yield context(
        f"cause, zoo: cases without an alarm in {ROUNDS} rounds", len(closed) - len(alarmed), f"of {len(closed)}"
    )


def _unknown(table: Sequence[Outcome]) -> Iterator[Figure]:
    mine = [one for one in table if one.truth is Cause.UNKNOWN and one.rounds is not None]
    yield _share("cause, zoo: faults without a signature called unknown", mine)
    for name in dict.fromkeys(one.name for one in mine):
        these = [one for one in mine if one.name == name]
        yield context(f"cause, zoo: {name} called unknown, of {len(these)} alarms", _percent(these), "%")


def _blocks(outcomes: Sequence[Outcome]) -> Iterator[Figure]:
    layers = [one for one in outcomes if one.name.startswith("layers.")]
    found = [one for one in layers if one.rounds is not None]
    at_once = sum(one.rounds == 1 for one in found)
    what = f"one of N layers lost, zoo, of {len(layers)}"
    yield at_least(f"{what}: found at tolerance 5 % in {ROUNDS} rounds", 100 * len(found) / len(layers), "%", 100)
    yield context(f"{what}: found in the first round", 100 * at_once / len(layers), "%")
    right = 100 * float(np.mean([one.block == one.block_told for one in found]))
    yield at_least(f"{what}: right layer named, of {len(found)} found", right, "%", BLOCKS_WANTED)
    others = [one for one in outcomes if one not in layers and one.rounds is not None]
    same = 100 * float(np.mean([one.block == one.block_told for one in others]))
    yield context(f"one module, attention or mlp lost, zoo: named, of {len(others)} found", same, "%")


def _share(name: str, outcomes: Sequence[Outcome]) -> Figure:
    return at_least(f"{name}, of {len(outcomes)} alarms", _percent(outcomes), "%", WANTED)


def _percent(outcomes: Sequence[Outcome]) -> float:
    return 100 * float(np.mean([one.is_right for one in outcomes]))


def drawing(outcomes: Sequence[Outcome]) -> Table:
    """True causes by row, named ones by column; a star where another witness than log-probabilities decides."""
    causes = [cause for cause in Cause if any(cause in (one.truth, one.told) for one in outcomes)]
    table = Table(title="alarms: true cause by row, named cause by column", title_justify="left")
    table.add_column("")
    for number, _ in enumerate(causes):
        table.add_column(str(number + 1), justify="right")
    counts = Counter((one.truth, one.told) for one in outcomes)
    for number, truth in enumerate(causes):
        star = "*" if truth in WITNESSED else ""
        cells = [str(counts[truth, told] or "") for told in causes]
        table.add_row(f"{number + 1} {truth.value}{star}", *cells)
    return table


def missed(outcomes: Sequence[Outcome]) -> Table:
    """What was named wrongly, and what raised no alarm, by fault."""
    table = Table(title="by fault", title_justify="left")
    for heading in ("true cause", "fault", "right", "wrong", "no alarm", "wrongly named"):
        table.add_column(heading)
    for truth, severity in dict.fromkeys((one.truth, one.severity) for one in outcomes):
        mine = [one for one in outcomes if (one.truth, one.severity) == (truth, severity)]
        alarmed = [one for one in mine if one.rounds is not None]
        wrong = Counter(one.told.value for one in alarmed if not one.is_right)
        names = list(dict.fromkeys(one.name for one in mine))
        table.add_row(
            truth.value, str(severity + 1) if len(names) > 3 else ", ".join(names), str(len(alarmed) - wrong.total()),
            str(wrong.total()), str(len(mine) - len(alarmed)), ", ".join(f"{n} {what}" for what, n in wrong.items()),
        )  # fmt: skip
    return table
