"""The canary evidence on a real model: the helpdesk's three adapters on SmolLM2, one round of 512 tokens per fault.

Few replays, because a round of the three takes a quarter of a minute: the shares are measured on the zoo, and this
shows that they are no property of small models. A missing block and a stacked adapter are injected by the same code
that recorded their signatures.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agent.demo.stage import ADAPTERS, set_up, write_config
from agent.worker.watched_bases import goldens_of, runner_of
from benchmarks.figures import Figure, at_least, context
from benchmarks.zoo.enrolled_base import (
    BUDGET,
    SEED,
    Answered,
    MonitorOutcome,
    answered,
    compared,
    monitor_rounds,
    round_of,
    rules,
)
from detectors.records import Cause, Fault, FaultKind
from probes.canaries.schedule import plan_round
from probes.golden.record import Golden
from probes.runner import Runner, Target

NOWHERE = "127.0.0.1:9"


@dataclass(frozen=True, slots=True)
class Case:
    """served, live: the targets that answer under the adapter's and the base's name (live None: the base as it is)."""

    name: str
    cause: Cause
    served: Target
    live: Target | None = None


def measure(quick: bool) -> list[Figure]:
    """quick: one adapter, and the cases of sensitivity alone."""
    with tempfile.TemporaryDirectory() as folder:
        config = write_config(set_up(Path(folder) / "world"), NOWHERE, f"http://{NOWHERE}", 60.0)
        model = config.models[0]
        runner = runner_of(config, model)
        runner.open()
        try:
            goldens = {name: golden for name, golden in goldens_of(config, model).items() if isinstance(golden, Golden)}
            names = ADAPTERS[:1] if quick else ADAPTERS
            return [*_figures([_Bench(runner, goldens[name], ADAPTERS) for name in names], quick)]
        finally:
            runner.close()


class _Bench:
    """One adapter: the canaries of its first round, and the answers to them by target, each replayed once."""

    def __init__(self, runner: Runner, golden: Golden, adapters: tuple[str, ...]) -> None:
        drawn = plan_round(golden, BUDGET, SEED, 0)
        self.golden, self.runner = golden, runner
        self.other = next(name for name in adapters if name != golden.adapter)
        self.canaries = [golden.canary(name) for name in (*drawn.draws, *drawn.held_out)]
        self._answers: dict[Target, Answered] = {}

    def watched(self, case: Case) -> MonitorOutcome:
        sides = [self._answered(target) for target in (case.served, case.live or Target(None))]
        measured = compared(self.golden.adapter, self.canaries, *sides)
        return monitor_rounds([round_of(self.golden, measured, 0)], rules())

    def cases(self) -> Iterator[Case]:
        name = self.golden.adapter
        yield Case("adapter not applied", Cause.ADAPTER_NOT_APPLIED, Target(None))
        yield Case("strength x0.88", Cause.WRONG_STRENGTH, Target(name, scale=0.88))
        yield Case("4-bit base", Cause.QUANTISED_BASE, *(Target(adapter, fault=FOUR) for adapter in (name, None)))

    def more_cases(self) -> Iterator[Case]:
        name = self.golden.adapter
        yield Case("strength x0.6", Cause.WRONG_STRENGTH, Target(name, scale=0.6))
        yield Case("another adapter", Cause.WRONG_ADAPTER, Target(self.other))
        on_top = Fault(FaultKind.STACKED, self.other)
        yield Case("another adapter stacked on it", Cause.COMPOSITION_INTERFERENCE, Target(name, fault=on_top))
        for block in ("v_proj", "layers.0", "layers.15", "layers.29"):
            lost = Fault(FaultKind.WITHOUT, block)
            yield Case(f"{block} lost", Cause.PARTLY_APPLIED, Target(name, fault=lost))

    def _answered(self, target: Target) -> Answered:
        if target not in self._answers:
            self._answers[target] = answered(self.runner, self.canaries, target)
        return self._answers[target]


FOUR = Fault(FaultKind.QUANTISED, "4")
ALWAYS = ("adapter not applied", "strength x0.88", "4-bit base")


def _figures(benches: list[_Bench], quick: bool) -> Iterator[Figure]:
    outcomes: dict[Case, list[MonitorOutcome]] = {}
    for bench in benches:
        for case in (*bench.cases(), *(() if quick else bench.more_cases())):
            outcomes.setdefault(case, []).append(bench.watched(case))
    by_name: dict[str, list[tuple[Cause, MonitorOutcome]]] = {}
    for case, rows in outcomes.items():
        by_name.setdefault(case.name, []).extend((case.cause, row) for row in rows)
    for name, case_outcomes in by_name.items():
        yield from _of_case(name, case_outcomes)


def _of_case(name: str, outcomes: list[tuple[Cause, MonitorOutcome]]) -> Iterator[Figure]:
    alarmed = [(cause, row) for cause, row in outcomes if row.rounds == 1]
    share, what = 100 * len(alarmed) / len(outcomes), f"helpdesk, {name}: alarms in the first round"
    yield at_least(what, share, "%", 100) if name in ALWAYS else context(what, share, "%")
    if alarmed:
        right = 100 * float(np.mean([row.verdict.cause is cause for cause, row in alarmed]))
        other_causes = sorted({row.verdict.cause.value for cause, row in alarmed if row.verdict.cause is not cause})
        beside = f" (else {', '.join(other_causes)})" if other_causes else ""
        yield context(f"helpdesk, {name}: cause named, of {len(alarmed)} alarms{beside}", right, "%")
