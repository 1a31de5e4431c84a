"""One call of a wrapped module, and which of its rows an adapter reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn


@dataclass(frozen=True, slots=True, eq=False)
class RowGroup:
    """Rows [start, stop) of a batch use ``adapter``; multiples: of its own scaling, one a row; scales: the same on the
    model's device, (stop - start,), None where all are one number"""

    adapter: str
    start: int
    stop: int
    scales: torch.Tensor | None
    multiples: tuple[float, ...]

    @property
    def rows(self) -> slice:
        return slice(self.start, self.stop)

    def by_multiple(self) -> Mapping[float, Sequence[int]]:
        """Multiple -> the rows of the batch that have it."""
        rows: dict[float, list[int]] = {}
        for row, multiple in enumerate(self.multiples, self.start):
            rows.setdefault(multiple, []).append(row)
        return rows


@dataclass(frozen=True, slots=True)
class TokenLayout:
    """How a module is given the tokens of a batch.

    rows: of the batch; columns: tokens of each; experts: how often all tokens are given, one set after the other, to a
    module whose experts each get all of them, 1 elsewhere
    is_flat: are the tokens of all rows laid one after the other?
    """

    rows: int
    columns: int
    experts: int = 1
    is_flat: bool = False

    def rows_first(self, tokens: torch.Tensor) -> torch.Tensor:
        """A view of tokens in this layout: (B, L, ...), or (B, experts, L, ...) where there are several."""
        if not self.is_flat:
            return tokens
        if self.experts == 1:
            return tokens.unflatten(0, (-1, self.columns))
        return tokens.unflatten(0, (self.experts, -1, self.columns)).transpose(0, 1)

    def as_given(self, by_rows: torch.Tensor) -> torch.Tensor:
        """The inverse of ``rows_first``, for as many rows as these are."""
        if not self.is_flat:
            return by_rows
        return by_rows.flatten(0, 1) if self.experts == 1 else by_rows.transpose(0, 1).flatten(0, 2)


def experts_in(module: nn.Module) -> int:
    """How many experts have their weights stacked in this module, 1 where it has none."""
    stacked = {parameter.shape[0] for parameter in module.parameters(recurse=False) if parameter.dim() == 3}
    return stacked.pop() if len(stacked) == 1 else 1


def layout_of(x: torch.Tensor, rows: int, columns: int, experts: int) -> TokenLayout | None:
    """How these tokens of a batch are laid, None where it is in none of the ways that are known.

    experts: of the module that is given them. Where it is given all tokens once for each of its experts they lie
    expert by expert, as in Llama 4; a mixture that sorted so many chosen tokens would be taken for one.
    """
    if x.dim() == 2 and columns > 1 and x.shape[0] == rows * columns:
        return TokenLayout(rows, columns, is_flat=True)
    if x.dim() == 2 and experts > 1 and x.shape[0] == experts * rows * columns:
        return TokenLayout(rows, columns, experts, is_flat=True)
    return TokenLayout(rows, columns) if x.shape[0] == rows else None


@dataclass(frozen=True, slots=True, eq=False)
class WrappedCall:
    """What a module of the base was given, and what it answered.

    layout: of its tokens; x, y: input and answer with the rows first; args, kwargs: the other arguments as they were
    given
    """

    x: torch.Tensor
    y: torch.Tensor
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    layout: TokenLayout

    def of_rows(self, rows: Sequence[int]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """All arguments, the first one included, for these rows of the batch alone."""
        x = self.layout.as_given(self.x[list(rows)])
        return (x, *(self._part(argument, rows) for argument in self.args)), {
            name: self._part(argument, rows) for name, argument in self.kwargs.items()
        }

    def rows_first(self, answer: torch.Tensor) -> torch.Tensor:
        """An answer to ``of_rows`` in the form of ``y``."""
        return self.layout.rows_first(answer)

    def _part(self, argument: Any, rows: Sequence[int]) -> Any:
        if not isinstance(argument, torch.Tensor) or not argument.dim():
            return argument
        layout = self.layout
        if argument.shape[0] == layout.rows:
            return argument[list(rows)]
        if layout.is_flat and argument.shape[0] == layout.experts * layout.rows * layout.columns:
            return layout.as_given(layout.rows_first(argument)[list(rows)])
        return argument


class Part(Protocol):
    """What one adapter changes in one module."""

    def change(self, call: WrappedCall, group: RowGroup) -> torch.Tensor:
        """What it adds to ``call.y[group.rows]``: nothing at a multiple of 0, so that this is the base."""


def factors_of(group: RowGroup, y: torch.Tensor) -> torch.Tensor | float:
    """The multiples of a group's rows, in a shape that spreads over an answer."""
    return group.multiples[0] if group.scales is None else group.scales.view(-1, *[1] * (y.dim() - 1))
