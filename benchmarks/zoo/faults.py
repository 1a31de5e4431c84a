"""Every cause of the table at three severities, and faults without a signature, on the adapters of one base.

Strengths, bits, mixtures and temperatures of the grid lie between the knots that enrolment records and the recipes that
are replayed; drawn ones lie anywhere (severities.py). Broken adapters and bases come from files (fault_files.py), as a
bad release would leave them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.zoo.enrolled_base import (
    Answered,
    EnrolledBase,
    Measured,
    answered,
    compared,
    earlier,
    neighbours,
    never,
    serving,
)
from benchmarks.zoo.fault_files import MERGED, adapter_files, base_files
from benchmarks.zoo.members import Member
from benchmarks.zoo.severities import Severities, SeveritiesOf, grid
from detectors.records import Cause, Fault, FaultKind, Identity, Measurement
from probes.canaries.log_prob_summary import summarise
from probes.canaries.replay_pairs import ask_all, full
from probes.golden.record import Golden, GoldenCanary
from probes.runner import Replay, Runner, Target

SEED = 73
# Causes that rest on more than log-probabilities: file hashes, the grid of the weights in the files, pod names, ids as
# they are rendered, a replay on a warm cache.
WITNESSED = (
    Cause.BASE_SWAPPED_AND_ADAPTER_LOST,
    Cause.QUANTISED_BASE,
    Cause.ONE_REPLICA,
    Cause.TEMPLATE_CHANGED,
    Cause.SHARED_CACHE,
)


@dataclass(frozen=True, slots=True)
class Case:
    """One adapter with one fault. severity: 0 to 2, in the order of the table; raw: as Round has it; warm: the same
    canaries through a cache that another adapter's request has filled.

    answers: canary -> what it measures now; block: which one is missing, "" where none is
    """

    adapter: str
    cause: Cause
    severity: int
    name: str
    answers: Measured
    identity: Identity
    raw: Measured | None = None
    warm: Measured | None = None
    block: str = ""


def cases(enrolled_base: EnrolledBase, scratch: Path, severities_of: SeveritiesOf = grid) -> Iterator[Case]:
    """All cases of the monitorable members, one broken base at a time, so that at most two models are in memory."""
    monitorable = [
        m
        for m in enrolled_base.members
        if m.name in enrolled_base.goldens and enrolled_base.goldens[m.name].power.monitorable
    ]
    files = {m.name: adapter_files(m, scratch / "adapters", severities_of(m.name)) for m in monitorable}
    extra = {f"{name}~{fault}": folder for name, folders in files.items() for fault, folder in folders.items()}
    with serving(enrolled_base.members, extra=extra) as runner:
        clean = {m.name: answered(runner, enrolled_base.goldens[m.name].canaries, Target(None)) for m in monitorable}
        for member in monitorable:
            others = [other.name for other in neighbours(member, enrolled_base.members)]
            golden, severities = enrolled_base.goldens[member.name], severities_of(member.name)
            yield from _of_adapter(runner, golden, member, others, clean[member.name], severities)
            lost = {name: file for name, file in files[member.name].items() if name not in severities.open_set}
            yield from _of_blocks(runner, golden, lost, clean[member.name])
    name = enrolled_base.base.name
    for kind, folders in base_files(monitorable[0], scratch / "bases" / name, severities_of(name)).items():
        for severity, base in enumerate(folders):
            with serving(enrolled_base.members, base=base) as runner:
                for member in monitorable:
                    golden = enrolled_base.goldens[member.name]
                    yield from _of_base(runner, golden, kind, severity, clean[member.name])


def _of_adapter(
    runner: Runner, golden: Golden, member: Member, others: Sequence[str], clean: Answered, severities: Severities
) -> Iterator[Case]:
    name, canaries = golden.adapter, golden.canaries

    def case(cause: Cause, severity: int, fault: str, served: Answered) -> Case:
        return Case(name, cause, severity, fault, compared(name, canaries, served, clean), _same(golden))

    def under(target: Target) -> Answered:
        return answered(runner, canaries, target)

    healthy = under(Target(name))
    for severity, scale in enumerate(severities.applied):
        target = Target(name, scale=scale) if scale else Target(None)
        yield case(Cause.ADAPTER_NOT_APPLIED, severity, f"x{scale:g}", under(target))
    for severity, scale in enumerate(severities.strengths):
        yield case(Cause.WRONG_STRENGTH, severity, f"x{scale:g}", under(Target(name, scale=scale)))
    for severity, other in enumerate((others[0], others[1], earlier(member))):
        yield case(Cause.WRONG_ADAPTER, severity, other, under(Target(other)))
    for severity, temperature in enumerate(severities.temperatures):
        served = _at_temperature(runner, canaries, Target(name), temperature)
        yield case(Cause.SAMPLING_CHANGED, severity, f"T {temperature:g}", served)
    for severity, other in enumerate(others):
        warm = under(Target(name, fault=Fault(FaultKind.WARMED, other)))
        cold = case(Cause.SHARED_CACHE, severity, other, healthy)
        yield replace(cold, warm=compared(name, canaries, warm, clean))
    for severity, pods in enumerate(severities.pods):
        yield _one_replica(golden, severity, pods, healthy, clean)
    for severity, (fault, render) in enumerate(renderings(runner).items()):
        changed = case(Cause.TEMPLATE_CHANGED, severity, fault, healthy)
        yield replace(changed, answers=_rendered(runner, golden, render), raw=changed.answers)
    for fault in severities.open_set:
        yield case(Cause.UNKNOWN, 0, fault, under(Target(f"{name}~{fault}")))


def _of_blocks(runner: Runner, golden: Golden, files: Mapping[str, Path], clean: Answered) -> Iterator[Case]:
    """Every block that has a file; severity 0 for a layer, 1 for a module, 2 for attention or mlp."""
    for block in files:
        severity = 0 if block.startswith("layers.") else 2 if block in ("attention", "mlp") else 1
        measured = compared(golden.adapter, golden.canaries, answered(
            runner, golden.canaries, Target(f"{golden.adapter}~{block}")), clean)  # fmt: skip
        yield Case(golden.adapter, Cause.PARTLY_APPLIED, severity, block, measured, _same(golden), block=block)


def _of_base(runner: Runner, golden: Golden, kind: str, severity: int, clean: Answered) -> Iterator[Case]:
    name, canaries = golden.adapter, golden.canaries
    served, live = answered(runner, canaries, Target(name)), answered(runner, canaries, Target(None))
    present = runner.identity(None, golden.hash_scheme)
    # As the program has it: how the weights are quantised is read off the files (probes/artefacts/weight_grid.py).
    identity = replace(
        _same(golden), live_base=present.live_base, golden_grid=golden.base_grid, live_grid=present.live_grid
    )
    if kind.startswith(MERGED):
        # Stacking another adapter equals merging it into the base, while the base's own name answers unmerged.
        if kind.removeprefix(MERGED) in golden.canaries[0].reference.others:
            measured = compared(name, canaries, served, clean)
            yield Case(name, Cause.COMPOSITION_INTERFERENCE, severity, kind, measured, _same(golden))
        return
    cause = Cause(kind)
    measured = compared(name, canaries, served, live)
    yield Case(name, cause, severity, f"{kind} {severity}", measured, identity)
    if cause is Cause.BASE_SWAPPED and severity == 1:
        lost = compared(name, canaries, live, live)
        yield Case(name, Cause.BASE_SWAPPED_AND_ADAPTER_LOST, 2, "moved, and not applied", lost, identity)


def _at_temperature(runner: Runner, canaries: Sequence[GoldenCanary], target: Target, temperature: float) -> Answered:
    """Log-probabilities divided by the temperature and normalised again over the whole vocabulary."""
    replays = [Replay(canary.id, canary.prompt, canary.forced, target) for canary in canaries]
    answers = ask_all(runner, replays, never)
    summaries = {}
    for canary, replay in zip(canaries, replays, strict=True):
        log_probs = full(answers[replay]) / temperature
        log_probs = log_probs - np.log(np.exp(log_probs).sum(axis=1, keepdims=True))
        summaries[canary.id] = summarise(log_probs.astype(np.float32), canary.reference.kept)
    return summaries


def _one_replica(golden: Golden, severity: int, pods: int, healthy: Answered, clean: Answered) -> Case:
    """One of ``pods`` pods answers as the base; which pod answers a canary is random."""
    rng, name = np.random.default_rng([SEED, pods]), golden.adapter
    where = {canary.id: int(rng.integers(pods)) for canary in golden.canaries}
    served = {canary: (clean if pod == 0 else healthy)[canary] for canary, pod in where.items()}
    measured = compared(name, golden.canaries, served, clean)
    answers = {canary: _on_pod(m, f"pod-{where[canary]}") for canary, m in measured.items()}
    return Case(name, Cause.ONE_REPLICA, severity, f"1 of {pods}", answers, _same(golden))


def _on_pod(measurement: Measurement, pod: str) -> Measurement:
    return replace(measurement, comparison=replace(measurement.comparison, pod=pod))


# Changed templates: no end of the turn, no generation prompt, a default system turn in front.
SYSTEM = "dear team , you can help our shop now . <e>"


def renderings(runner: Runner) -> dict[str, Callable[[tuple[int, ...]], tuple[int, ...]]]:
    """Name -> from the accepted ids, which end in end of turn and generation prompt, to what is rendered now."""
    system = runner.encode(SYSTEM)
    return {
        "no end of turn": lambda prompt: (*prompt[:-2], *prompt[-1:]),
        "no generation prompt": lambda prompt: prompt[:-1],
        "a system turn in front": lambda prompt: (*system, *prompt),
    }


def _rendered(runner: Runner, golden: Golden, render: Callable[[tuple[int, ...]], tuple[int, ...]]) -> Measured:
    present = [replace(canary, prompt=render(canary.prompt)) for canary in golden.canaries]
    sides = [answered(runner, present, Target(name)) for name in (golden.adapter, None)]
    return compared(golden.adapter, present, *sides)


def _same(golden: Golden) -> Identity:
    return Identity(golden.base_hash, golden.base_hash, golden.adapter_hash, golden.adapter_hash)
