"""One call of a wrapped module, and which of its rows an adapter reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch


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


@dataclass(frozen=True, slots=True, eq=False)
class WrappedCall:
    """What a module of the base was given, and what it answered.

    total: rows of the batch; columns: tokens of each row. Tensors have the rows first, or the tokens of all rows one
    after the other (``flat``)
    x, y: input and answer with the rows first; args, kwargs: the other arguments as they were given
    """

    x: torch.Tensor
    y: torch.Tensor
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    total: int
    columns: int
    flat: bool

    def of_rows(self, rows: Sequence[int]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """All arguments, the first one included, for these rows of the batch alone."""
        x = self.x.flatten(0, 1) if self.flat else self.x
        arguments = tuple(self._part(argument, rows) for argument in (x, *self.args))
        return arguments, {name: self._part(argument, rows) for name, argument in self.kwargs.items()}

    def rows_first(self, answer: torch.Tensor) -> torch.Tensor:
        """An answer to ``of_rows`` in the form of ``y``."""
        return answer.unflatten(0, (-1, self.columns)) if self.flat else answer

    def _part(self, argument: Any, rows: Sequence[int]) -> Any:
        if not isinstance(argument, torch.Tensor) or not argument.dim():
            return argument
        if argument.shape[0] == self.total:
            return argument[list(rows)]
        if self.flat and argument.shape[0] == self.total * self.columns:
            return argument.unflatten(0, (self.total, self.columns))[list(rows)].flatten(0, 1)
        return argument


class Part(Protocol):
    """What one adapter changes in one module."""

    def change(self, call: WrappedCall, group: RowGroup) -> torch.Tensor:
        """What it adds to ``call.y[group.rows]``: nothing at a multiple of 0, so that this is the base."""


def factors_of(group: RowGroup, y: torch.Tensor) -> torch.Tensor | float:
    """The multiples of a group's rows, in a shape that spreads over an answer."""
    return group.multiples[0] if group.scales is None else group.scales.view(-1, *[1] * (y.dim() - 1))
