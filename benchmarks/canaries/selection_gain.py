"""How many tokens do chosen canaries save against random ones of the same candidates?

Both pools are those of ``gapwatch enrol``: with ``--select`` it chooses by fault directions that it replays itself,
without it the pool is random. Both are evaluated on faults that the choice did not use, from files: information is
|y - a|^2 over the canary's own noise, equal information is equal power of a likelihood-ratio test of that fault, and
since rounds draw at random from either pool, the ratio of information per scored token is the ratio of tokens needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.figures import Figure, at_least, context
from benchmarks.zoo import broken
from benchmarks.zoo.enrolled_base import MANY, earlier, neighbours, never, replayed, serving, silent
from benchmarks.zoo.members import Member
from benchmarks.zoo.world import BOUNDS, World, pool
from detectors.canaries.retention import prepare
from probes.enrolment.d_optimal import select_canaries, tokens_needed
from probes.enrolment.fault_directions import features_of
from probes.enrolment.settings import EnrolmentContext
from probes.golden.record import GoldenCanary
from probes.runner import BatchShape, Runner, Target

Doubles = NDArray[np.float64]
Flags = NDArray[np.bool_]
EACH, ADAPTERS, SEED = 120, 3, 53
LEAST_ENERGY = 1e-9  # without any effect a canary has no directions at all
LEAST_NOISE = 1e-3
RANDOM_ORDERS = 21
UNSEEN = ", faults not chosen for"


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """n candidates.

    features: (n, D, D) information that the choice uses; faults: unused fault -> (n,) squared signal-to-noise ratio

    lengths: (n,) scored tokens; energy: (n,) |delta|^2 per scored position; is_inside: (n,) is it an in-domain prompt?
    """

    features: Doubles
    faults: Mapping[str, Doubles]
    lengths: NDArray[np.int64]
    energy: Doubles
    is_inside: Flags


@dataclass(frozen=True, slots=True)
class Gain:
    """Tokens that random canaries need over those that the chosen ones need, for the same power, one adapter.

    plain: the same with enrolment's default budget for the pool, 24 times the mean length of a candidate, which forces
    short prompts; own: by the criterion of the choice itself, over the directions that it used
    """

    per_fault: dict[str, float]
    plain: float
    own: float

    @property
    def mean(self) -> float:
        return _mean(self.per_fault)


def measure(world: World, quick: bool) -> list[Figure]:
    """The first three adapters of each base, one of it in a quick run."""
    mixed, inside, raw = [], [], []
    for members in world.members:
        chosen = members[: 1 if quick else ADAPTERS]
        with serving(members, extra=_files(chosen, world.scratch / "selection")) as runner:
            for member in chosen:
                others = [other.name for other in neighbours(member, members)]
                candidates = _read(member, runner, others)
                raw.append(_gain(candidates, np.ones(len(candidates.lengths), dtype=np.bool_)))
                mixed.append(_gain(candidates, candidates.energy >= BOUNDS.min_energy))
                inside.append(_gain(candidates, candidates.is_inside))
    return [*_figures(mixed, inside, raw)]


def _figures(mixed: Sequence[Gain], inside: Sequence[Gain], raw: Sequence[Gain]) -> Iterator[Figure]:
    what = f"tokens of random canaries over those of chosen ones, same power{UNSEEN}"
    for name, gains in (
        ("half in-domain, half everyday prompts", raw),
        ("likewise, those under enrolment's floor left out of both", mixed),
    ):
        yield at_least(f"{what}: {name}, median adapter", float(np.median([gain.mean for gain in gains])), "x", 2)
        yield context(f"{what}: {name}, worst adapter", min(gain.mean for gain in gains), "x")
    yield context(f"{what}: in-domain prompts alone, median adapter", float(np.median([g.mean for g in inside])), "x")
    yield context(f"{what}: in-domain prompts alone, worst adapter", min(gain.mean for gain in inside), "x")
    name = f"{what[: -len(UNSEEN)]}, by the criterion of the choice: mixed prompts, median adapter"
    yield context(name, float(np.median([gain.own for gain in raw])), "x")
    for fault in raw[0].per_fault:
        yield context(f"{what}: mixed prompts, {fault}, median adapter",
                      float(np.median([gain.per_fault[fault] for gain in raw])), "x")  # fmt: skip


def _read(member: Member, runner: Runner, others: Sequence[str]) -> Candidates:
    """Half of the candidates in-domain, half everyday prompts, each replayed once per target."""
    halves = [pool(member, runner, prompts, LEAST_ENERGY)[:EACH] for prompts in (member.pool, member.general)]
    candidates = [*halves[0], *halves[1]]
    return Candidates(
        features=features_of(EnrolmentContext(runner, member.name, others, silent, never), candidates),
        faults=_information(member, runner, candidates),
        lengths=np.array([len(canary.forced) for canary in candidates]),
        energy=np.array([prepare(canary.reference).energy / len(canary.forced) for canary in candidates]),
        is_inside=np.arange(len(candidates)) < len(halves[0]),
    )


def _gain(candidates: Candidates, among: Flags) -> Gain:
    """For the candidates that ``among`` marks."""
    features, lengths = candidates.features[among], candidates.lengths[among]
    # Tokens for the fewest canaries of a pool, all of the longest (``pool_tokens`` of the enrolment's settings).
    roomy, tight = BOUNDS.min_pool * int(lengths.max()), round(float(lengths.mean()) * BOUNDS.per_half)
    chosen, plain = (select_canaries(features, lengths.tolist(), budget, BOUNDS.min_pool) for budget in (roomy, tight))

    def gains(indices: Sequence[int]) -> dict[str, float]:
        return {
            name: _per_token(information[among], lengths, indices) for name, information in candidates.faults.items()
        }

    return Gain(gains(chosen), _mean(gains(plain)), _by_own_criterion(features, lengths.tolist(), chosen))


def _mean(gains: Mapping[str, float]) -> float:
    """Geometric mean, because these are ratios."""
    return float(np.exp(np.mean(np.log(list(gains.values())))))


def _by_own_criterion(features: Doubles, lengths: Sequence[int], chosen: Sequence[int]) -> float:
    """Median tokens that random orders need for the det^(1/D) of all chosen ones, over the tokens of those."""
    total = features[list(chosen)].sum(axis=0)
    wanted = float(np.exp(np.linalg.slogdet(total)[1] / len(total)))
    rng, spent = np.random.default_rng(SEED), sum(lengths[index] for index in chosen)
    orders = (rng.permutation(len(lengths)).tolist() for _ in range(RANDOM_ORDERS))
    needed = [tokens_needed(features, lengths, order, wanted) for order in orders]
    return float(np.median([sum(lengths) if tokens is None else tokens for tokens in needed])) / spent


def _per_token(information: Doubles, lengths: NDArray[np.int64], picked: Sequence[int]) -> float:
    indices = list(picked)
    return float((information[indices].sum() / lengths[indices].sum()) / (information.sum() / lengths.sum()))


def _information(member: Member, runner: Runner, candidates: Sequence[GoldenCanary]) -> Mapping[str, Doubles]:
    """Fault -> (n,) signal to noise, squared, of each candidate."""
    name = member.name
    benign = _moved(runner, name, candidates, Target(name), BatchShape(rows=1))
    sizes = np.array([canary.reference.kept.size for canary in candidates])
    noise = np.maximum(benign / sizes, LEAST_NOISE**2)
    faults = {
        "strength x0.8": Target(name, scale=0.8),
        "one module lost": Target(f"{name}~module"),
        "one layer lost": Target(f"{name}~layer"),
        "an earlier version": Target(earlier(member)),
        "noise on weights": Target(f"{name}~noise"),
    }
    return {fault: _moved(runner, name, candidates, target) / noise for fault, target in faults.items()}


def _moved(
    runner: Runner, adapter: str, candidates: Sequence[GoldenCanary], target: Target, shape: BatchShape = MANY
) -> Doubles:
    """(n,) |y - a|^2, nats squared."""
    measurements = replayed(runner, adapter, candidates, target, shape=shape)
    return np.array([m.frozen_shift * prepare(m.comparison.reference).energy for m in measurements.values()])


def _files(members: Sequence[Member], folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for member in members:
        out, module = folder / member.name, member.recipe.modules[-1]
        if not out.is_dir():
            broken.without(member.folder, out / "module", lambda key, module=module: module in key)  # type: ignore[misc]
            broken.without(member.folder, out / "layer", lambda key: ".layers.1." in key)
            broken.noisy(member.folder, out / "noise", 0.5, SEED)
        files |= {f"{member.name}~{name}": out / name for name in ("module", "layer", "noise")}
    return files
