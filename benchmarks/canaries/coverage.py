"""How often does the 95 % interval of retention contain the truth, and how wide is it?

Truth: the mean retention over all usable prompts of a pool of 480, under the same fault. A case: one adapter, one
fault, and as many canaries as the schedule holds out in a round of 512 tokens, drawn from that pool at random. They are
drawn with replacement, so that the pool itself is the population: without replacement, the intervals would be wider
than necessary and cover too often.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.figures import Figure, at_least, at_most, context
from benchmarks.zoo import broken
from benchmarks.zoo.enrolled_base import BUDGET, earlier, replayed, serving
from benchmarks.zoo.members import Member
from benchmarks.zoo.world import BOUNDS, World, pool
from detectors.canaries.mean_interval import mean_interval
from detectors.records import Interval, Measurement
from probes.canaries.schedule import sizes
from probes.enrolment.scored_prefix import whole_and_short
from probes.golden.record import GoldenCanary
from probes.runner import Target

Doubles = NDArray[np.float64]
WANTED, ALLOWED, HALF_WIDTH = 95.0, 0.5, 0.025
SEED, CASES_EACH, POOL_LEAST = 41, 60, 400


@dataclass(frozen=True, slots=True)
class Cases:
    """One adapter under one fault. inside: (cases,) does the interval contain the truth? half_width: (cases,)

    whole_budget: half-width of one interval that uses all tokens of a round; pool: prompts behind the truth
    """

    adapter: str
    family: str
    inside: NDArray[np.bool_]
    half_width: Doubles
    whole_budget: float
    pool: int


def measure(world: World, quick: bool) -> list[Figure]:
    """quick: a third of the cases of each fault."""
    halves = CASES_EACH // 3 if quick else CASES_EACH
    cases = [group for members in world.members for group in _of_base(world, members, halves)]
    return [*_overall(cases), *_by_family(cases)]


def _overall(cases: Sequence[Cases]) -> list[Figure]:
    inside = np.concatenate([group.inside for group in cases])
    widths = np.concatenate([group.half_width for group in cases])
    covered, n = 100 * float(inside.mean()), len(inside)
    sampling = 1.96 * 100 * math.sqrt(0.95 * 0.05 / n)
    what = "95 % interval of retention"
    return [
        at_most(f"{what}: |coverage - 95 %| over {n} injected cases", abs(covered - WANTED), "points", ALLOWED),
        at_least(f"{what}: injected cases", n, "cases", 8000),
        context(f"{what}: coverage (chance alone moves it by {sampling:.2f} points)", covered, "%"),
        at_most(f"{what}: median half-width, held-out canaries of a {BUDGET}-token round", float(np.median(widths)), "",
                HALF_WIDTH),
        context(f"{what}: 90 % of half-widths are below", float(np.quantile(widths, 0.9)), ""),
        context(f"{what}: median half-width with all {BUDGET} tokens on held-out canaries",
                float(np.median([group.whole_budget for group in cases])), ""),
        context(f"{what}: adapters, those with {POOL_LEAST} usable prompts", len({g.adapter for g in cases}), ""),
        at_least(f"{what}: fewest prompts behind a truth", min(group.pool for group in cases), "prompts", POOL_LEAST),
    ]  # fmt: skip


def _by_family(cases: Sequence[Cases]) -> Iterator[Figure]:
    for family in dict.fromkeys(group.family for group in cases):
        of_family = [group for group in cases if group.family == family]
        inside, widths = (
            np.concatenate([group.inside for group in of_family]),
            np.concatenate([group.half_width for group in of_family]),
        )
        name = f"95 % interval under {family}: coverage, median half-width {np.median(widths):.3f}, {len(inside)} cases"
        yield context(name, 100 * float(inside.mean()), "%")


def _of_base(world: World, members: Sequence[Member], halves: int) -> Iterator[Cases]:
    folder = world.scratch / "coverage" / members[0].recipe.base
    extra = {f"{member.name}~{name}": file for member in members for name, file in _files(member, folder).items()}
    with serving(members, extra=extra) as runner:
        pools = {member.name: _as_enrolled(pool(member, runner, member.pool)) for member in members}
        members = [member for member in members if len(pools[member.name]) >= POOL_LEAST]
        for member, other in zip(members, [*members[1:], members[0]], strict=True):
            canaries = pools[member.name]
            for family, target in _targets(member, other).items():
                values = _retentions(replayed(runner, member.name, canaries, target))
                yield _cases(member.name, family, canaries, values, halves)
    for family, base in _bases(members, folder).items():
        with serving(members, base=base) as runner:
            for member in members:
                values = _retentions(replayed(runner, member.name, pools[member.name], Target(member.name)))
                yield _cases(member.name, family, pools[member.name], values, halves)


def _as_enrolled(canaries: Sequence[GoldenCanary]) -> list[GoldenCanary]:
    """A quarter whole, the first positions of the others: the population that a held-out half is drawn from."""
    return whole_and_short(canaries, BOUNDS, SEED).all


def _targets(member: Member, other: Member) -> Mapping[str, Target]:
    """Fault family -> the target that answers under the member's name."""
    scales = {f"strength x{scale:g}": Target(member.name, scale=scale) for scale in (0.2, 0.6, 0.9, 1.7)}
    files = {
        name: Target(f"{member.name}~{name}") for name in ("one module lost", "one layer lost", "noise on weights")
    }
    return {
        **scales, **files, "another adapter": Target(other.name), "an earlier version": Target(earlier(member)),
    }  # fmt: skip


def _files(member: Member, folder: Path) -> dict[str, Path]:
    module, layer, out = member.recipe.modules[-1], ".layers.2.", folder / member.name
    if out.is_dir():
        return {path.name: path for path in out.iterdir()}
    return {
        "one module lost": broken.without(member.folder, out / "one module lost", lambda key: module in key),
        "one layer lost": broken.without(member.folder, out / "one layer lost", lambda key: layer in key),
        "noise on weights": broken.noisy(member.folder, out / "noise on weights", 0.7, SEED),
    }


def _bases(members: Sequence[Member], folder: Path) -> dict[str, Path]:
    base, moved = members[0].base, members[0].moved
    makers: dict[str, Callable[[Path], Path]] = {
        "a 4-bit base": lambda out: broken.rounded(base, out, 4, 0),
        "a 6-bit base": lambda out: broken.rounded(base, out, 6, 32),
        "a moved base": lambda out: broken.towards(base, out, moved, 1.0),
    }
    return {
        name: make(folder / name) if not (folder / name).is_dir() else folder / name for name, make in makers.items()
    }


def _retentions(measured: Mapping[str, Measurement]) -> Doubles:
    return np.array([measurement.retention for measurement in measured.values()])


def _cases(adapter: str, family: str, canaries: Sequence[GoldenCanary], values: Doubles, halves: int) -> Cases:
    lengths = [len(canary.forced) for canary in canaries]
    n_held_out = sizes(lengths, lengths, BUDGET)[1]
    rng, truth = np.random.default_rng([SEED, zlib.crc32(f"{adapter}/{family}".encode())]), float(values.mean())

    def interval(n: int) -> Interval:
        return mean_interval(values[rng.integers(len(values), size=n)].tolist())

    intervals = [interval(n_held_out) for _ in range(halves)]
    # An interval of no width counts as containing a truth that equals it up to rounding.
    inside = np.array([each.low <= truth <= each.high or abs(each.mean - truth) < 1e-9 for each in intervals])
    widths = np.array([_half(each) for each in intervals])
    return Cases(adapter, family, inside, widths, _half(interval(BUDGET // round(np.mean(lengths)))), len(values))


def _half(interval: Interval) -> float:
    return (interval.high - interval.low) / 2
