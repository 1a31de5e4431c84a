"""How many tokens do canaries with short scored prefixes save, and how many those that ``--select`` chooses, at equal
power?

Every pool is the one that ``gapwatch enrol`` makes of the same candidates: whole continuations (``whole_share`` 1, as
before), the first positions of most, of all, and the chosen ones. Each is scored by the rule of the product under
faults that nothing was chosen for, from files. The share q of a pool that is beyond gives the draws to the alarm, and
these with the mean tokens of a canary the tokens: draws are uniform, so that this is the cost at equal power. Processed
tokens count the prompt too. On the real model: single blocks lost and bases in fewer bits as the helpdesk's golden
records hold them, whose canaries are whole; a shortened one is measured against the first positions of the same replay.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from agent.demo.stage import HELPDESK
from benchmarks.figures import Figure, at_least, context
from benchmarks.zoo import broken
from benchmarks.zoo.enrolled_base import BUDGET, LOG_A, earlier, neighbours, never, replayed, serving, silent
from benchmarks.zoo.members import Member
from benchmarks.zoo.recipes import BASES
from benchmarks.zoo.world import BOUNDS, World, pool
from detectors.canaries.retention import measure as measure_canary
from detectors.canaries.tolerance import Tolerances, beyond_tolerance
from detectors.records import CanarySplit, Comparison, Fault, FaultKind, Measurement, NoiseFloor
from probes.canaries.schedule import sizes
from probes.enrolment.noise_battery import LEAST, sampled
from probes.enrolment.pool import CanarySelection, assign_splits, tokens_of
from probes.enrolment.scale_curve import FEW, with_curve
from probes.enrolment.scored_prefix import whole_and_short
from probes.enrolment.settings import EnrolmentContext, EnrolSettings
from probes.golden.archive import load
from probes.golden.record import Golden, GoldenCanary
from probes.golden.statistical_power import draws_to_alarm
from probes.runner import Runner, Target

CANDIDATES, ADAPTERS, SEED = 96, 3, 53
WHOLE = "whole"
POOLS: Mapping[str, EnrolSettings] = {
    WHOLE: replace(BOUNDS, whole_share=1.0),
    "short, a quarter whole": BOUNDS,
    "short, none whole": replace(BOUNDS, whole_share=0.0),
    "chosen, a quarter whole": replace(BOUNDS, select=True),
}
RANDOM = {name: settings for name, settings in POOLS.items() if not settings.select}
HARMLESS = ("base in 8 bits", "a tenth of a later release")
TARGET = 5.0
Pools = Mapping[str, Sequence[GoldenCanary]]


@dataclass(frozen=True, slots=True)
class PoolOutcome:
    """One adapter, one fault, one pool. share: of the pool beyond tolerance; draws: to the alarm, None without one

    per_round: draws of a round; scored, processed: mean tokens of a canary, prompt left out and counted
    """

    fault: str
    pool: str
    share: float
    draws: int | None
    per_round: int
    scored: float
    processed: float


def measure(world: World, quick: bool) -> list[Figure]:
    """The first three adapters of each base, one of it in a quick run, and the helpdesk's."""
    outcomes: list[list[PoolOutcome]] = []
    for members in world.members:
        chosen = members[: 1 if quick else ADAPTERS]
        outcomes += _of_base(world, members, chosen)
    recorded = [_recorded(load(HELPDESK / "golden", f"sha256:{file.stem}")) for file in _golden_files()]
    return [
        *(figure for name in POOLS if name != WHOLE for figure in _figures(outcomes, name, "zoo")),
        *(figure for name in RANDOM if name != WHOLE for figure in _figures(recorded, name, "helpdesk")),
    ]


def _golden_files() -> list[Path]:
    return sorted((HELPDESK / "golden").glob("*.golden"))


def _recorded(golden: Golden) -> list[PoolOutcome]:
    """Of the held-out canaries: they alone have recorded faults."""
    outcomes = []
    for name, settings in RANDOM.items():
        canaries = whole_and_short([_without_faults(canary) for canary in golden.held_out], settings, SEED).all
        for fault in golden.faults:
            if fault.kind in (FaultKind.WITHOUT, FaultKind.QUANTISED):
                measured = [_as_recorded(golden, canary, fault) for canary in canaries]
                outcomes.append(_outcome(f"{fault.kind.value} {fault.name}", name, canaries, measured))
    return outcomes


def _without_faults(canary: GoldenCanary) -> GoldenCanary:
    return replace(canary, reference=replace(canary.reference, faults={}))


def _as_recorded(golden: Golden, canary: GoldenCanary, fault: Fault) -> Measurement:
    """The canary as it was answered under that fault, as far as it is scored."""
    positions, reference = len(canary.forced), canary.reference
    recorded = golden.canary(canary.id).reference.faults[fault]
    served = replace(reference.golden_adapter, log_probs=recorded.served[:positions])
    live = reference.golden_base
    if recorded.live_base is not None:
        live = replace(live, log_probs=recorded.live_base[:positions])
    return measure_canary(Comparison(golden.adapter, reference, 1, served, live, 0.0))


def _of_base(world: World, members: Sequence[Member], chosen: Sequence[Member]) -> list[list[PoolOutcome]]:
    folder = world.scratch / "selection" / members[0].recipe.base
    files = {member.name: _adapter_files(member, folder / member.name) for member in chosen}
    extra = {f"{name}~{fault}": file for name, faults in files.items() for fault, file in faults.items()}
    outcomes: dict[str, list[PoolOutcome]] = {member.name: [] for member in chosen}
    with serving(members, extra=extra) as runner:
        pools = {member.name: _pools(member, members, runner) for member in chosen}
        for member in chosen:
            for fault, target in _targets(member, files[member.name]).items():
                outcomes[member.name] += _outcomes(fault, member, runner, pools[member.name], target)
    for fault, base in _base_files(members[0], folder / "bases").items():
        with serving(members, base=base) as runner:
            for member in chosen:
                outcomes[member.name] += _outcomes(fault, member, runner, pools[member.name], Target(member.name))
    return list(outcomes.values())


def _pools(member: Member, members: Sequence[Member], runner: Runner) -> Pools:
    """Every pool of POOLS, with scale curves and the least noise floors that enrolment gives."""
    candidates = pool(member, runner, member.pool)[:CANDIDATES]
    others = [other.name for other in neighbours(member, members)]
    setting = EnrolmentContext(runner, member.name, others, silent, never)
    pools = {}
    for name, settings in POOLS.items():
        splits = assign_splits(setting, CanarySelection(candidates, {}), settings).canaries
        drafts = [canary for canary in splits if canary.split is CanarySplit.SELECTED]
        alone = replace(setting, others=())
        few = [drafts[index] for index in sampled([draft.reference for draft in drafts], FEW, SEED)]
        curved = with_curve(alone, drafts, few, member.recipe.rank, settings.tolerances.scale)
        pools[name] = [_with_floor(canary, LEAST) for canary in curved]
    return pools


def _with_floor(canary: GoldenCanary, floor: NoiseFloor) -> GoldenCanary:
    return replace(canary, reference=replace(canary.reference, noise=floor))


def _outcomes(fault: str, member: Member, runner: Runner, pools: Pools, target: Target) -> Iterator[PoolOutcome]:
    for name, canaries in pools.items():
        measured = replayed(runner, member.name, canaries, target)
        yield _outcome(fault, name, canaries, list(measured.values()))


def _outcome(fault: str, name: str, canaries: Sequence[GoldenCanary], measured: Sequence[Measurement]) -> PoolOutcome:
    rule = Tolerances()
    share = float(np.mean([beyond_tolerance(measurement, rule) for measurement in measured]))
    draws = draws_to_alarm(share, rule.share, LOG_A)
    lengths = [len(canary.forced) for canary in canaries]
    per_round, _ = sizes(lengths, lengths, BUDGET)
    return PoolOutcome(
        fault, name, share, draws, per_round, float(np.mean(lengths)), float(np.mean(tokens_of(canaries)))
    )


def _targets(member: Member, files: Mapping[str, Path]) -> Mapping[str, Target]:
    scales = {f"strength x{scale:g}": Target(member.name, scale=scale) for scale in (0.9, 1.1)}
    from_files = {fault: Target(f"{member.name}~{fault}") for fault in files}
    return {**scales, **from_files, "an earlier version": Target(earlier(member))}


def _adapter_files(member: Member, out: Path) -> Mapping[str, Path]:
    """Each module and each layer lost, half of the rows lost, and noise on the weights."""
    if not out.is_dir():
        for layer in range(_layers(member)):
            broken.without(member.folder, out / f"layer {layer} lost", lambda key, n=layer: f".layers.{n}." in key)  # type: ignore[misc]
        for module in member.recipe.modules:
            broken.without(member.folder, out / f"{module} lost", lambda key, name=module: name in key)  # type: ignore[misc]
        broken.rows_zeroed(member.folder, out / "half of the rows lost", 0.5, SEED)
        broken.noisy(member.folder, out / "noise on weights", 0.15, SEED)
    return {path.name: path for path in sorted(out.iterdir())}


def _layers(member: Member) -> int:
    return next(base.layers for base in BASES if base.name == member.recipe.base)


def _base_files(member: Member, out: Path) -> Mapping[str, Path]:
    if not out.is_dir():
        broken.rounded(member.base, out / "base in 4 bits", 4, 0)
        broken.rounded(member.base, out / HARMLESS[0], 8, 0)
        broken.towards(member.base, out / HARMLESS[1], member.moved, 0.1)
    return {path.name: path for path in sorted(out.iterdir())}


def _figures(outcomes: Sequence[Sequence[PoolOutcome]], name: str, where: str) -> Iterator[Figure]:
    pairs = [pair for of_adapter in outcomes for pair in _beside_whole(of_adapter, name)]
    faults = [pair for pair in pairs if pair[0].fault not in HARMLESS]
    both = [(whole, ours) for whole, ours in faults if whole.draws and ours.draws]
    short = f"{where}, canaries that are {name}"
    what = f"{short}: tokens of whole random ones over theirs at equal power, faults not chosen for"
    scored, processed = (
        [_tokens(whole, kind) / _tokens(ours, kind) for whole, ours in both] for kind in ("scored", "processed")
    )
    yield at_least(f"{what}: scored, mean over {len(both)} faults", _mean(scored), "x", TARGET)
    yield context(f"{what}: scored, a tenth of faults is below", float(np.quantile(scored, 0.1)), "x")
    yield context(f"{what}: processed, mean", _mean(processed), "x")
    yield context(f"{what}: processed, a tenth of faults is below", float(np.quantile(processed, 0.1)), "x")
    lost = sum(bool(whole.draws) and not ours.draws for whole, ours in faults)
    won = sum(bool(ours.draws) and not whole.draws for whole, ours in faults)
    yield context(f"{short}: faults that whole ones find and they never do", lost, f"of {len(faults)}")
    yield context(f"{short}: faults that they find and whole ones never do", won, f"of {len(faults)}")
    yield context(f"{short}: scored positions of a canary, mean", float(np.mean([o.scored for _, o in pairs])), "")
    before, at_once = (sum(_in_one_round(outcome) for outcome in side) for side in zip(*faults, strict=True))
    name = f"{short}: faults that alarm within one round of {BUDGET} scored positions (whole ones: {before})"
    yield context(name, at_once, f"of {len(faults)}")
    for fault in HARMLESS:
        sides = [pair for pair in pairs if pair[0].fault == fault]
        if not sides:
            continue
        over = sum(ours.draws is not None for _, ours in sides)
        before = sum(whole.draws is not None for whole, _ in sides)
        yield context(f"{short}: adapters of {len(sides)} that would alarm on {fault} (whole ones: {before})", over, "")


def _in_one_round(outcome: PoolOutcome) -> bool:
    return outcome.draws is not None and outcome.draws <= outcome.per_round


def _beside_whole(outcomes: Sequence[PoolOutcome], name: str) -> Iterator[tuple[PoolOutcome, PoolOutcome]]:
    whole = {outcome.fault: outcome for outcome in outcomes if outcome.pool == WHOLE}
    yield from ((whole[outcome.fault], outcome) for outcome in outcomes if outcome.pool == name)


def _tokens(outcome: PoolOutcome, kind: str) -> float:
    return (outcome.draws or 0) * (outcome.scored if kind == "scored" else outcome.processed)


def _mean(ratios: Sequence[float]) -> float:
    """Geometric mean, because these are ratios."""
    return float(np.exp(np.mean(np.log(ratios))))
