"""Is the new base the old one in other coordinates, and how does an adapter go over into them?

A release may permute hidden units, or rotate them, and answer as before. An adapter that was trained for the old order
then loads and has no useful effect. Where such a move explains the weights, it is solved for, and the adapter's factors
are moved by it: with the module's input x' = I x and output y' = O y, B A becomes (O B)(A I^T). Nothing is trained.

What is solved, from the weights alone: the residual stream R from the token embeddings, which every base has with the
same tokens in the same order; then of each module that the adapter changes the other side, given R. A side is a
permutation where the rows agree one to one, else an orthogonal matrix by Procrustes (Schönemann 1966, Psychometrika
31), which a side can only be where nothing nonlinear acts on its single units; that the weights agree is checked, and
what does not agree is not explained.

What breaks it: a base that was trained on besides. The weights then agree only so far, which ``error`` says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from scipy.optimize import linear_sum_assignment

from probes.artefacts.lora_files import LowRankUpdate
from probes.errors import Unreplayable

# Of |W - W'| / |W'|: above it a move does not explain the weights. Rounding to 4 bits leaves .1, half a tune .05.
EXPLAINED = 0.15
# A permutation is taken over none, and a rotation over a permutation, where it leaves over less than half: rounding or
# training besides would else be read as a little rotation.
MUCH_BETTER = 0.5
# What explains so much is not tried to be bettered.
EXACT = 1e-4
# Sizes of rows are divided by no less.
TINY = 1e-12
# Which gain multiplies the input of a module: part of the module's name -> that of the norm before it.
GAINS = (("self_attn.", "input_layernorm"), ("mlp.", "post_attention_layernorm"))
BLOCK = "layers."


Parts = Callable[[], Iterable[tuple[torch.Tensor, torch.Tensor]]]
"""(d, n) columns of rows before and after, one part after the other, each time from the first: they may be read from a
file, because all columns of a large vocabulary would be gigabytes in several copies."""


class Tensors(Protocol):
    """Tensors of a base by name, in float32. embeddings: (n, H) rows of the (V, H) token embeddings in their order, in
    parts that are alike for bases of one shape"""

    def __contains__(self, name: str) -> bool: ...
    def __getitem__(self, name: str) -> torch.Tensor: ...
    @property
    def embeddings_shape(self) -> tuple[int, ...]: ...
    def embeddings(self) -> Iterator[torch.Tensor]: ...


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """How one axis of vectors is moved: v'[j] = v[order[j]], or v' = matrix @ v; neither: as it was."""

    order: torch.Tensor | None = None
    matrix: torch.Tensor | None = None

    @property
    def kind(self) -> str:
        return "rotation" if self.matrix is not None else "same" if self.order is None else "permutation"

    def moved(self, rows: torch.Tensor) -> torch.Tensor:
        """(..., d) vectors in the new coordinates."""
        if self.order is not None:
            return rows[..., self.order]
        return rows if self.matrix is None else rows @ self.matrix.T.to(rows.dtype)


@dataclass(frozen=True, slots=True, eq=False)
class ModuleMove:
    """What happened to one module. inputs, outputs: its sides; gains: (in,) of the norm before it, in the old and in
    the new base, None for ones; error: |W - W'| / |W'| that is left over"""

    inputs: Axis
    outputs: Axis
    error: float
    gains: tuple[torch.Tensor, torch.Tensor] | None = None

    def moved_a(self, a: torch.Tensor) -> torch.Tensor:
        """(r, in) of A in the new coordinates, such that A' x' = A x."""
        if self.gains is None or self.inputs.kind != "rotation":
            return self.inputs.moved(a)
        old, new = (gain.to(a.dtype) for gain in self.gains)
        return self.inputs.moved(a * old) / new

    def moved_b(self, b: torch.Tensor) -> torch.Tensor:
        """(out, r) of B."""
        return self.outputs.moved(b.T).T


@dataclass(frozen=True, slots=True, eq=False)
class Coordinates:
    """The move from one base to another. modules: those that were solved; unexplained: module -> what is left over

    residual_error: of the token embeddings
    """

    residual: Axis
    residual_error: float
    modules: Mapping[str, ModuleMove] = field(default_factory=dict)
    unexplained: Mapping[str, float] = field(default_factory=dict)

    @property
    def explained(self) -> bool:
        return self.residual_error <= EXPLAINED and not self.unexplained

    @property
    def kind(self) -> str:
        """same, permutation or rotation: the furthest of all sides."""
        sides = [self.residual, *(side for move in self.modules.values() for side in (move.inputs, move.outputs))]
        kinds = {side.kind for side in sides}
        return next(kind for kind in ("rotation", "permutation", "same") if kind in kinds)

    @property
    def error(self) -> float:
        """The largest share of a module's weights that the move leaves over."""
        return max([self.residual_error, *(move.error for move in self.modules.values()), *self.unexplained.values()])

    @property
    def words(self) -> str:
        if self.explained and self.kind == "same":
            return f"the same coordinates: the weights differ by {self.error:.1%} at most"
        if self.explained:
            return f"a {self.kind} of hidden units explains the weights but for {self.error:.1%} at most"
        if self.residual_error > EXPLAINED:
            return f"no permutation or rotation explains the embeddings: {self.residual_error:.0%} of them is left over"
        worst = max(self.unexplained, key=lambda name: self.unexplained[name])
        count, total = len(self.unexplained), len(self.modules) + len(self.unexplained)
        return f"{count} of {total} modules are not explained, worst {worst}: {self.unexplained[worst]:.0%} left over"


def solve(old: Tensors, new: Tensors, modules: Mapping[str, LowRankUpdate]) -> Coordinates:
    """The move of these modules. modules: names of linear modules, without ".weight", and what an adapter adds to each.
    One whose weight lies otherwise than (outputs, inputs), as GPT-2 has them, is not explained.

    In memory: one module of either base at a time and a square of its sides; of the embeddings never more than a part.
    Raises Unreplayable where a base lacks a module, or has embeddings of another shape.
    """
    before, after = old.embeddings_shape, new.embeddings_shape
    if before != after:
        raise Unreplayable("the new base", f"embeddings {after} where the old one has {before}")
    residual, error = _side(lambda: ((b.T, a.T) for b, a in zip(old.embeddings(), new.embeddings(), strict=True)))
    if error > EXPLAINED:
        return Coordinates(residual, error)
    solved, unexplained = {}, {}
    for name, update in sorted(modules.items()):
        move = _module(old, new, name, residual, (update.b.shape[0], update.a.shape[1], before[1]))
        if move.error <= EXPLAINED:
            solved[name] = move
        else:
            unexplained[name] = move.error
    return Coordinates(residual, error, solved, unexplained)


def _module(old: Tensors, new: Tensors, name: str, residual: Axis, sizes: tuple[int, int, int]) -> ModuleMove:
    """Given the residual stream on one side, the other one; where both could be that side, what explains more. sizes:
    outputs and inputs of the module, and the width of the stream"""
    before, after = old[f"{name}.weight"], new[f"{name}.weight"]
    if not before.shape == after.shape == sizes[:2]:
        return ModuleMove(Axis(), Axis(), 1.0)
    width, moves = sizes[2], list[ModuleMove]()
    if before.shape[1] == width:
        gains = _gains(old, new, name, width)
        outputs, error = _side(_whole(residual.moved(before * gains[0]), after * gains[1]))
        moves.append(ModuleMove(residual, outputs, error, gains))
    if before.shape[0] == width:
        inputs, error = _side(_whole(residual.moved(before.T), after.T))
        moves.append(ModuleMove(inputs, residual, error))
    if not moves:
        return ModuleMove(Axis(), Axis(), 1.0)
    return min(moves, key=lambda move: move.error)


def _gains(old: Tensors, new: Tensors, name: str, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(H,) of the norm before this module in both bases, ones where none is known by name."""
    for part, norm in GAINS:
        if BLOCK in name and part in name:
            key = f"{name[: name.index(part)]}{norm}.weight"
            if key in old and key in new:
                return old[key], new[key]
    return torch.ones(width), torch.ones(width)


def _whole(before: torch.Tensor, after: torch.Tensor) -> Parts:
    return lambda: ((before, after),)


@dataclass(frozen=True, slots=True, eq=False)
class _Products:
    """Of rows before and after. alike: (d, d) of <after_i, before_j>; before, after: (d,) their sizes; columns: of the
    rows"""

    alike: torch.Tensor
    before: torch.Tensor
    after: torch.Tensor
    columns: int


def _side(parts: Parts) -> tuple[Axis, float]:
    """The axis that takes the rows before to those after, and what it leaves over.

    Tried in this order: none, a permutation, a rotation.
    """
    best = Axis()
    least = _left_over(best, parts)
    if least <= EXACT:
        return best, least
    products = _products(parts)
    for candidate in (_permutation, _rotation):
        axis = candidate(products)
        if axis is None or least <= EXACT:
            break
        error = _left_over(axis, parts)
        if error < MUCH_BETTER * least:
            best, least = axis, error
    return best, least


def _left_over(axis: Axis, parts: Parts) -> float:
    """|moved before - after| / |after|, 0 where there is nothing."""
    error = size = 0.0
    for before, after in parts():
        error += float((axis.moved(before.T).T - after).norm()) ** 2
        size += float(after.norm()) ** 2
    return math.sqrt(error / (size or 1.0))


def _products(parts: Parts) -> _Products:
    alike, sizes, columns = torch.zeros(()), [torch.zeros(()), torch.zeros(())], 0
    for before, after in parts():
        alike = alike + after @ before.T
        sizes = [known + own.square().sum(dim=1) for known, own in zip(sizes, (before, after), strict=True)]
        columns += before.shape[1]
    return _Products(alike, sizes[0].sqrt(), sizes[1].sqrt(), columns)


def _permutation(products: _Products) -> Axis:
    """The one that has the rows most alike: by nearest rows where these are one to one, else by assignment.

    Source: Kuhn (1955), Naval Research Logistics 2, as scipy has it.
    """
    cosines = products.alike / products.before.clamp(min=TINY) / products.after.clamp(min=TINY)[:, None]
    order = cosines.argmax(dim=1)
    if len(order.unique()) < len(order):
        order = torch.from_numpy(linear_sum_assignment(cosines.numpy(), maximize=True)[1])
    return Axis(order=order)


def _rotation(products: _Products) -> Axis | None:
    """The orthogonal matrix Q with Q before nearest to after; None where the rows are more than what they hold, so that
    it would not be unique."""
    if len(products.before) > products.columns:
        return None
    u, _, v = torch.linalg.svd(products.alike)
    return Axis(matrix=u @ v)
