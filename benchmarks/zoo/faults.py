"""Every cause of the table at three severities, and faults that no signature was recorded of, on a stall's adapters.

Strengths, bits, mixtures and temperatures lie between the knots and recipes that enrolment records with; broken
adapters and bases come from files (fault_files.py), as a bad release would leave them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.zoo.fault_files import MERGED, OPEN, adapter_files, base_files
from benchmarks.zoo.members import Member
from benchmarks.zoo.stall import Answered, Measured, Stall, answered, compared, earlier, neighbours, never, serving
from detectors.records import Cause, Fault, FaultKind, Identity, Measurement
from probes.canaries.log_prob_summary import summarise
from probes.canaries.replay_pairs import ask_all, full
from probes.golden.record import Golden, GoldenCanary
from probes.runner import Replay, Runner, Target

SEED = 73
# Where something beside the log-probabilities decides: file hashes, pod names, rendered ids, a replay on a warm cache.
WITNESSED = (Cause.BASE_SWAPPED_AND_ADAPTER_LOST, Cause.ONE_REPLICA, Cause.TEMPLATE_CHANGED, Cause.SHARED_CACHE)


@dataclass(frozen=True, slots=True)
class Case:
    """One adapter with one fault. severity: 0 to 2, in the order of the table; raw, warm: as Round has them.

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


def cases(stall: Stall, scratch: Path) -> Iterator[Case]:
    """All of them for the members that are monitorable, base by base so that two models are in memory at most."""
    able = [m for m in stall.members if m.name in stall.goldens and stall.goldens[m.name].power.monitorable]
    files = {m.name: adapter_files(m, scratch / "adapters") for m in able}
    extra = {f"{name}~{fault}": folder for name, made in files.items() for fault, folder in made.items()}
    with serving(stall.members, extra=extra) as runner:
        clean = {m.name: answered(runner, stall.goldens[m.name].canaries, Target(None)) for m in able}
        for member in able:
            others = [other.name for other in neighbours(member, stall.members)]
            yield from _of_adapter(runner, stall.goldens[member.name], member, others, clean[member.name])
            yield from _of_blocks(runner, stall.goldens[member.name], files[member.name], clean[member.name])
    folder = scratch / "bases" / stall.base.name
    for kind, made in base_files(stall.base, stall.members[0].moved, able[0], folder).items():
        for severity, base in enumerate(made):
            with serving(stall.members, base=base) as runner:
                for member in able:
                    golden = stall.goldens[member.name]
                    yield from _of_base(runner, golden, kind, severity, clean[member.name])


def _of_adapter(
    runner: Runner, golden: Golden, member: Member, others: Sequence[str], clean: Answered
) -> Iterator[Case]:
    name, canaries = golden.adapter, golden.canaries

    def case(cause: Cause, severity: int, what: str, served: Answered) -> Case:
        return Case(name, cause, severity, what, compared(name, canaries, served, clean), _same(golden))

    def under(target: Target) -> Answered:
        return answered(runner, canaries, target)

    healthy = under(Target(name))
    for severity, scale in enumerate((0.0, 0.01, 0.02)):
        target = Target(name, scale=scale) if scale else Target(None)
        yield case(Cause.ADAPTER_NOT_APPLIED, severity, f"x{scale:g}", under(target))
    for severity, scale in enumerate((0.65, 0.85, 1.75)):
        yield case(Cause.WRONG_STRENGTH, severity, f"x{scale:g}", under(Target(name, scale=scale)))
    for severity, other in enumerate((others[0], others[1], earlier(member))):
        yield case(Cause.WRONG_ADAPTER, severity, other, under(Target(other)))
    for severity, temperature in enumerate((0.75, 1.2, 1.5)):
        served = _at_temperature(runner, canaries, Target(name), temperature)
        yield case(Cause.SAMPLING_CHANGED, severity, f"T {temperature:g}", served)
    for severity, other in enumerate(others):
        warm = under(Target(name, fault=Fault(FaultKind.WARMED, other)))
        cold = case(Cause.SHARED_CACHE, severity, other, healthy)
        yield replace(cold, warm=compared(name, canaries, warm, clean))
    for severity, pods in enumerate((2, 3, 4)):
        yield _one_replica(golden, severity, pods, healthy, clean)
    for severity, (what, render) in enumerate(renderings(runner).items()):
        told = case(Cause.TEMPLATE_CHANGED, severity, what, healthy)
        yield replace(told, answers=_rendered(runner, golden, render), raw=told.answers)
    for what in OPEN:
        yield case(Cause.UNKNOWN, 0, what, under(Target(f"{name}~{what}")))


def _of_blocks(runner: Runner, golden: Golden, files: Mapping[str, Path], clean: Answered) -> Iterator[Case]:
    """Every block that is a file; severity 0 for a layer, 1 for a module, 2 for attention or mlp."""
    for block in (name for name in files if name not in OPEN):
        severity = 0 if block.startswith("layers.") else 2 if block in ("attention", "mlp") else 1
        measured = compared(golden.adapter, golden.canaries, answered(
            runner, golden.canaries, Target(f"{golden.adapter}~{block}")), clean)  # fmt: skip
        yield Case(golden.adapter, Cause.PARTLY_APPLIED, severity, block, measured, _same(golden), block=block)


def _of_base(runner: Runner, golden: Golden, kind: str, severity: int, clean: Answered) -> Iterator[Case]:
    name, canaries = golden.adapter, golden.canaries
    served, live = answered(runner, canaries, Target(name)), answered(runner, canaries, Target(None))
    here = replace(_same(golden), live_base=runner.identity(None, golden.hash_scheme).live_base)
    if kind.startswith(MERGED):
        # One adapter on top of another is the same as the other one merged in; the base's own endpoint stays clean.
        if kind.removeprefix(MERGED) in golden.canaries[0].reference.others:
            measured = compared(name, canaries, served, clean)
            yield Case(name, Cause.COMPOSITION_INTERFERENCE, severity, kind, measured, _same(golden))
        return
    cause = Cause(kind)
    measured = compared(name, canaries, served, live)
    yield Case(name, cause, severity, f"{kind} {severity}", measured, here)
    if cause is Cause.BASE_SWAPPED and severity == 1:
        lost = compared(name, canaries, live, live)
        yield Case(name, Cause.BASE_SWAPPED_AND_ADAPTER_LOST, 2, "moved, and not applied", lost, here)


def _at_temperature(runner: Runner, canaries: Sequence[GoldenCanary], target: Target, temperature: float) -> Answered:
    """Processed log-probabilities: divided by the temperature and normalised again over the whole vocabulary."""
    replays = [Replay(one.id, one.prompt, one.forced, target) for one in canaries]
    answers = ask_all(runner, replays, never)
    told = {}
    for canary, replay in zip(canaries, replays, strict=True):
        warm = full(answers[replay]) / temperature
        warm = warm - np.log(np.exp(warm).sum(axis=1, keepdims=True))
        told[canary.id] = summarise(warm.astype(np.float32), canary.reference.kept)
    return told


def _one_replica(golden: Golden, severity: int, pods: int, healthy: Answered, clean: Answered) -> Case:
    """One of so many pods answers as the base; which pod answers a canary is chance."""
    rng, name = np.random.default_rng([SEED, pods]), golden.adapter
    where = {canary.id: int(rng.integers(pods)) for canary in golden.canaries}
    served = {canary: (clean if pod == 0 else healthy)[canary] for canary, pod in where.items()}
    measured = compared(name, golden.canaries, served, clean)
    told = {canary: _on_pod(m, f"pod-{where[canary]}") for canary, m in measured.items()}
    return Case(name, Cause.ONE_REPLICA, severity, f"1 of {pods}", told, _same(golden))


def _on_pod(measurement: Measurement, pod: str) -> Measurement:
    return replace(measurement, comparison=replace(measurement.comparison, pod=pod))


# What a changed template writes: no end of the turn, nothing to begin the answer with, a default system turn in front.
SYSTEM = "dear team , you can help our shop now . <e>"


def renderings(runner: Runner) -> dict[str, Callable[[tuple[int, ...]], tuple[int, ...]]]:
    """Name -> accepted ids, which end in the ends of turn and prompt, to what is rendered now."""
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
