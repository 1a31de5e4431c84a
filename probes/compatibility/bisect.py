"""Which tensors of a new base cost an adapter its effect? By halving: parts of them are put into the old base in
memory, and a few canaries are replayed on each.

Blocks (one family of tensors in one layer) are halved for as long as a half brings a share of the whole loss; then the
tensors inside the blocks that are left. Where a part loses and neither half of it does, both are needed, and each is
halved in the presence of the other (Zeller & Hildebrandt 2002, "Simplifying and isolating failure-inducing input",
IEEE TSE 28(2); here by losses, which are numbers, in place of a test that passes or fails). Tensors of the same
families that moved as far as those are named with them: one edit of the base, of which each part brings too little to
be measured. Where a base only has other coordinates there is nothing to halve: no part of it works without the rest,
and that is said instead (coordinates.py).

What breaks it: losses that cancel each other, and a loss that is spread so thin that no block brings its share; then
nothing is named.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from probes.compatibility.base_changes import LAYER, TensorChange

# Share of the whole loss that a part has to bring; and of a part's loss that its halves bring only together.
OWN, TOGETHER = 0.1, 0.6
# Others are named that moved at least so far, as a share of how far those moved that were measured, unless there are
# more of them than this share of all.
AS_FAR, MOST = 0.5, 0.3
# Below it nothing is lost that a few canaries could show.
LEAST_LOSS = 0.02
Tensors = frozenset[str]
Loss = Callable[[Tensors], float]
NOTHING: Tensors = frozenset()


@dataclass(slots=True)
class Halving:
    """loss: what these tensors of the new base cost, put into the old one; known: each set is measured once"""

    loss: Loss
    known: dict[Tensors, float] = field(default_factory=dict)

    def of(self, *groups: Tensors) -> float:
        tensors = NOTHING.union(*groups)
        if tensors not in self.known:
            self.known[tensors] = self.loss(tensors)
        return self.known[tensors]

    def search(self, groups: Sequence[Tensors], least: float) -> list[Tensors]:
        """The groups that lose at least so much each, and those that do so only together."""
        whole = self.of(*groups)
        if whole < least or len(groups) <= 1:
            return list(groups) if whole >= least else []
        first, second = _halves(groups)
        alone = self.of(*first) + self.of(*second)
        named = [*self.search(first, least), *self.search(second, least)]
        if not named and whole - alone >= TOGETHER * whole:
            return self.fewest(groups, TOGETHER * whole)
        return named

    def fewest(self, groups: Sequence[Tensors], wanted: float, beside: Tensors = NOTHING) -> list[Tensors]:
        """Few of these groups that bring what is wanted, put in with others that stay in."""
        if len(groups) <= 1:
            return list(groups)
        first, second = _halves(groups)
        losses = self.of(beside, *first), self.of(beside, *second)
        if max(losses) >= wanted:
            return self.fewest(first if losses[0] >= losses[1] else second, wanted, beside)
        left = self.fewest(first, wanted, beside.union(*second))
        return [*left, *self.fewest(second, wanted, beside.union(*left))]


@dataclass(frozen=True, slots=True)
class Culprits:
    """tensors: that bring the loss, in the order of layers; loss: theirs; whole: of the whole new base

    replays: sets of tensors that were measured; linear: as many as trying each changed tensor would take
    """

    tensors: tuple[str, ...]
    loss: float
    whole: float
    replays: int
    linear: int

    @property
    def words(self) -> str:
        """Such as "these 12 tensors, layers 4-9, mlp"."""
        if not self.tensors:
            return f"nothing that could be divided: the whole base costs {self.whole:.3f} of the adapter's effect"
        layers = sorted({int(number[1]) for name in self.tensors if (number := LAYER.search(name))})
        where = [f"layer {layers[0]}" if len(layers) == 1 else f"layers {layers[0]}-{layers[-1]}"] if layers else []
        families = sorted({TensorChange(name, 0.0).family for name in self.tensors})
        count = "this tensor" if len(self.tensors) == 1 else f"these {len(self.tensors)} tensors"
        return ", ".join([count, *where, *families])


def culprits(changed: Mapping[str, float], loss: Loss) -> Culprits:
    """changed: how far each tensor that differs has moved, in its own norm; loss: of a set of them, 0 where nothing is
    lost and 1 where all is"""
    halving = Halving(loss)
    whole = halving.of(frozenset(changed)) if changed else 0.0
    if whole < LEAST_LOSS:
        return Culprits((), 0.0, whole, len(halving.known), len(changed))
    guilty = halving.search(list(blocks(changed)), OWN * whole)
    single = [frozenset((name,)) for block in guilty for name in sorted(block)]
    measured = NOTHING.union(*(halving.search(single, OWN * whole) or guilty))
    named = measured | _moved_as_far(measured, changed)
    return Culprits(tuple(sorted(named, key=_place)), halving.of(named), whole, len(halving.known), len(changed))


def _moved_as_far(measured: Tensors, changed: Mapping[str, float]) -> Tensors:
    if not measured:
        return NOTHING
    families = {TensorChange(name, 0.0).family for name in measured}
    least = AS_FAR * min(changed[name] for name in measured)
    others = {name for name, far in changed.items() if far >= least and TensorChange(name, 0.0).family in families}
    return frozenset(others) if len(others) <= MOST * len(changed) else NOTHING


def _halves(groups: Sequence[Tensors]) -> tuple[Sequence[Tensors], Sequence[Tensors]]:
    middle = len(groups) // 2
    return groups[:middle], groups[middle:]


def blocks(names: Iterable[str]) -> Iterator[Tensors]:
    """Tensors of one family in one layer together, in the order of layers."""
    groups: dict[tuple[int, str], set[str]] = defaultdict(set)
    for name in names:
        number = LAYER.search(name)
        groups[int(number[1]) if number else -1, TensorChange(name, 0.0).family].add(name)
    return (frozenset(groups[key]) for key in sorted(groups))


def _place(name: str) -> tuple[list[int], str]:
    """Layer 10 comes after layer 9."""
    return [int(number) for number in re.findall(r"\d+", name)], name
