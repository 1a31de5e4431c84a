"""Is the named cause the right one? Twelve causes at three severities on every adapter of the zoo, and faults without a
signature, which must be called unknown.

A case counts where the evidence alarms within twelve rounds of 512 tokens, at A = 2.1e9 and a tolerance of 5 %; the
named cause is that of the incident once faults were replayed after the alarm, as in production. How many the alarm's
own verdict names is counted beside it, and cases without an alarm separately.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.table import Table

from benchmarks.canaries.after_the_alarm import Remembered, refined
from benchmarks.figures import Figure, at_least, console, context, share
from benchmarks.zoo.enrolled_base import EnrolledBase, drawn_like, monitor_rounds, round_of, rules
from benchmarks.zoo.faults import WITNESSED, Case, cases
from benchmarks.zoo.severities import SeveritiesOf, grid
from benchmarks.zoo.world import World
from detectors.canaries.mode_gap import in_modes, is_apart
from detectors.canaries.tolerance import Tolerances
from detectors.diagnosis.record import Diagnosis
from detectors.diagnosis.root_cause import diagnose
from detectors.records import Cause, Measurement, Mode, Round
from probes.golden.record import Golden

ROUNDS, WANTED, BLOCKS_WANTED = 12, 95.0, 90.0
TOLERANCES = Tolerances()


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one case.

    truth, named: the injected cause, and that of the incident, or of the last round without an alarm
    at_alarm: the cause of the alarm's own verdict
    rounds: until the alarm, None without one; block, named_block: the lost block, and the one that was named
    """

    adapter: str
    truth: Cause
    severity: int
    name: str
    rounds: int | None
    named: Cause
    at_alarm: Cause
    block: str = ""
    named_block: str = ""

    @property
    def is_right(self) -> bool:
        return self.named is self.truth


def measure(world: World) -> list[Figure]:
    """Replays every case on every stall of the world, and prints the tables."""
    outcomes = [
        outcome
        for enrolled_base in world.enrolled_bases
        for outcome in outcomes_of(enrolled_base, world.scratch / "confusion")
    ]
    table = [outcome for outcome in outcomes if not outcome.block or _in_table(outcome)]
    console.print(drawing([outcome for outcome in table if outcome.rounds is not None]))
    console.print(missed(table))
    return [*_causes(table), *_unknown(table), *_blocks([outcome for outcome in outcomes if outcome.block])]


def outcomes_of(enrolled_base: EnrolledBase, scratch: Path, severities_of: SeveritiesOf = grid) -> list[Outcome]:
    """Every case on the adapters of one base."""
    runner = Remembered(enrolled_base.runner)
    return [
        _judged(runner, enrolled_base.goldens[case.adapter], case)
        for case in cases(enrolled_base, scratch, severities_of)
    ]


def _judged(runner: Remembered, golden: Golden, case: Case) -> Outcome:
    rounds = [_round(case, round_of(golden, case.answers, number, case.identity)) for number in range(ROUNDS)]
    if case.warm is not None:
        return _judged_warm(case, rounds[0])
    result = monitor_rounds(rounds, rules())
    last = rounds[(result.rounds or ROUNDS) - 1]
    diagnosis = diagnose(last, TOLERANCES)
    named, block = diagnosis.cause, ""
    if result.rounds is not None:
        incident = refined(runner, golden, result, last)
        named, diagnosis = incident.cause, incident.diagnosis
    if case.block:
        block = _block(diagnosis)
    at_alarm = result.verdict.cause
    return Outcome(
        case.adapter, case.cause, case.severity, case.name, result.rounds, named, at_alarm, case.block, block
    )


def _block(diagnosis: Diagnosis) -> str:
    """The block that is named as missing, by the cause or beside it; "" for none."""
    return diagnosis.missing_block or (diagnosis.match.names[0] if diagnosis.match else "")


def _round(case: Case, plain: Round) -> Round:
    raw, warm = (drawn_like(plain, extra) if extra else () for extra in (case.raw, case.warm))
    pairs = zip(warm, plain.measurements, strict=False)
    return replace(plain, raw=raw, cells=tuple(_through_the_cache(answer, scored) for answer, scored in pairs))


def _through_the_cache(answer: Measurement, scored: Measurement) -> Measurement:
    return in_modes(replace(answer, comparison=replace(answer.comparison, modes=(Mode.WARM,))), scored)


def _judged_warm(case: Case, round: Round) -> Outcome:
    """The cold canaries are healthy and raise no alarm: the warm ones that are apart reveal the fault."""
    apart = float(np.mean([is_apart(m, TOLERANCES) for m in round.cells]))
    shows = 1 if apart > TOLERANCES.share else None
    named = diagnose(round, TOLERANCES).cause
    return Outcome(case.adapter, case.cause, case.severity, case.name, shows, named, named)


def _in_table(outcome: Outcome) -> bool:
    """One layer, one module and one larger part of each adapter are enough for its row."""
    wanted = ("layers.2", *({"attention"} if outcome.severity == 2 else ()))
    return outcome.name in wanted or (outcome.severity == 1 and outcome.name in ("v_proj", "down_proj"))


def _causes(table: Sequence[Outcome]) -> Iterator[Figure]:
    closed = [outcome for outcome in table if outcome.truth is not Cause.UNKNOWN]
    alarmed = [outcome for outcome in closed if outcome.rounds is not None]
    plain, witnessed = (
        [outcome for outcome in alarmed if (outcome.truth in WITNESSED) is flag] for flag in (False, True)
    )
    yield _share("cause, zoo: top-1 of those that rest on log-probabilities", plain)
    yield _share("cause, zoo: top-1 of those that rest on another witness too", witnessed)
    yield _share("cause, zoo: top-1 of all alarms", alarmed)
    at_alarm = 100 * float(np.mean([outcome.at_alarm is outcome.truth for outcome in alarmed]))
    yield context(f"cause, zoo: top-1 by the alarm's own round, of {len(alarmed)} alarms", at_alarm, "%")
    for severity in range(3):
        yield _share(
            f"cause, zoo: top-1 at severity {severity + 1} of 3", [o for o in alarmed if o.severity == severity]
        )
    for cause in dict.fromkeys(outcome.truth for outcome in closed):
        of_cause = [outcome for outcome in alarmed if outcome.truth is cause]
        if of_cause:
            yield context(f"cause, zoo: {cause.value} named, of {len(of_cause)} alarms", _percent(of_cause), "%")
    yield context(
        f"cause, zoo: cases without an alarm in {ROUNDS} rounds", len(closed) - len(alarmed), f"of {len(closed)}"
    )


def _unknown(table: Sequence[Outcome]) -> Iterator[Figure]:
    alarmed = [outcome for outcome in table if outcome.truth is Cause.UNKNOWN and outcome.rounds is not None]
    yield _share("cause, zoo: faults without a signature called unknown", alarmed)
    for name in dict.fromkeys(outcome.name for outcome in alarmed):
        of_fault = [outcome for outcome in alarmed if outcome.name == name]
        yield context(f"cause, zoo: {name} called unknown, of {len(of_fault)} alarms", _percent(of_fault), "%")


def _blocks(outcomes: Sequence[Outcome]) -> Iterator[Figure]:
    layers = [outcome for outcome in outcomes if outcome.name.startswith("layers.")]
    detected = [outcome for outcome in layers if outcome.rounds is not None]
    at_once = sum(outcome.rounds == 1 for outcome in detected)
    what = f"one of N layers lost, zoo, of {len(layers)}"
    yield at_least(f"{what}: found at tolerance 5 % in {ROUNDS} rounds", 100 * len(detected) / len(layers), "%", 100)
    yield context(f"{what}: found in the first round", 100 * at_once / len(layers), "%")
    right = 100 * float(np.mean([outcome.block == outcome.named_block for outcome in detected]))
    yield at_least(f"{what}: right layer named, of {len(detected)} found", right, "%", BLOCKS_WANTED)
    others = [outcome for outcome in outcomes if outcome not in layers and outcome.rounds is not None]
    same = 100 * float(np.mean([outcome.block == outcome.named_block for outcome in others]))
    yield context(f"one module, attention or mlp lost, zoo: named, of {len(others)} found", same, "%")


def _share(name: str, outcomes: Sequence[Outcome]) -> Figure:
    return share(f"{name}, of {len(outcomes)} alarms", sum(o.is_right for o in outcomes), len(outcomes), WANTED)


def _percent(outcomes: Sequence[Outcome]) -> float:
    return 100 * float(np.mean([outcome.is_right for outcome in outcomes]))


def drawing(outcomes: Sequence[Outcome]) -> Table:
    """True causes by row, named ones by column; a star where something other than log-probabilities decides."""
    causes = [cause for cause in Cause if any(cause in (outcome.truth, outcome.named) for outcome in outcomes)]
    table = Table(title="alarms: true cause by row, named cause by column", title_justify="left")
    table.add_column("")
    for number, _ in enumerate(causes):
        table.add_column(str(number + 1), justify="right")
    counts = Counter((outcome.truth, outcome.named) for outcome in outcomes)
    for number, truth in enumerate(causes):
        star = "*" if truth in WITNESSED else ""
        cells = [str(counts[truth, cause] or "") for cause in causes]
        table.add_row(f"{number + 1} {truth.value}{star}", *cells)
    return table


def missed(outcomes: Sequence[Outcome]) -> Table:
    """Wrongly named causes and missed alarms, by fault."""
    table = Table(title="by fault", title_justify="left")
    for heading in ("true cause", "fault", "right", "wrong", "no alarm", "wrongly named"):
        table.add_column(heading)
    for truth, severity in dict.fromkeys((outcome.truth, outcome.severity) for outcome in outcomes):
        of_fault = [outcome for outcome in outcomes if (outcome.truth, outcome.severity) == (truth, severity)]
        alarmed = [outcome for outcome in of_fault if outcome.rounds is not None]
        wrong = Counter(outcome.named.value for outcome in alarmed if not outcome.is_right)
        wrongly_named = ", ".join(f"{count} {cause}" for cause, count in wrong.items())
        names = list(dict.fromkeys(outcome.name for outcome in of_fault))
        table.add_row(
            truth.value, str(severity + 1) if len(names) > 3 else ", ".join(names), str(len(alarmed) - wrong.total()),
            str(wrong.total()), str(len(of_fault) - len(alarmed)), wrongly_named,
        )  # fmt: skip
    return table
