"""The low-rank update of a linear module or an embedding, with DoRA's magnitudes and a bias where an adapter has them.

With W the base's weight, s the adapter's scaling and m the row's multiple of it:

    LoRA     change = m s ((x A^T) B^T + bias), times embed_scale where an embedding scales its answer
    DoRA     change = m ((g - 1) (W x) + g s (x A^T) B^T),  g = magnitude / ||W + s B A|| for each row of W

PEFT 0.21 has both for m = 1 (peft.tuners.lora.layer, peft.tuners.lora.dora). For other multiples DoRA's own rule has
no answer that is the base at 0, and here the whole change is scaled, as that of a saved module is.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from probes.artefacts.lora_files import LowRankUpdate
from probes.model.adapter_parts.wrapped_call import RowGroup, WrappedCall, factors_of
from probes.model.precision.split_products import STORED, is_split, product_of


def linear_shape(module: nn.Module) -> tuple[int, int] | None:
    """Outputs and inputs of a module that multiplies by a matrix, None for any other. GPT-2's own class stores its
    matrix the other way round; those of quantisation libraries are no ``nn.Linear`` and have its two fields."""
    if isinstance(module, Conv1D):
        return int(module.weight.shape[1]), int(module.weight.shape[0])
    outputs, inputs = (getattr(module, name, None) for name in ("out_features", "in_features"))
    return (outputs, inputs) if isinstance(outputs, int) and isinstance(inputs, int) else None


class LowRank:
    """One adapter's update of ``inner``, in the types in which it is computed."""

    def __init__(self, update: LowRankUpdate, inner: nn.Module) -> None:
        self.update = update
        self.is_split = is_split(inner)
        self.bias: torch.Tensor | None = getattr(inner, "bias", None)
        self.stretch = None if update.magnitude is None else update.magnitude / _norms(update, inner)
        scale = getattr(inner, "embed_scale", None) if update.on_embedding else None
        self.embed_scale: float | torch.Tensor = 1.0 if scale is None else scale

    def change(self, call: WrappedCall, group: RowGroup) -> torch.Tensor:
        x, y = call.x[group.rows], call.y[group.rows]
        factors, part = factors_of(group, y), self.update
        if self.stretch is not None:
            linear = y if self.bias is None else y - self.bias
            added = _times(self._narrow(x) * part.scaling, part.b) * self.stretch
            return ((linear * (self.stretch - 1) + added) * factors).to(y.dtype)
        # Scaled between A and B, where a token has r numbers and not the width of the layer.
        change = _times(self._scaled(x, group, y), part.b)
        if part.bias is not None:
            change = change + part.bias * (part.scaling * factors)
        return (change if part.on_embedding is False else change * self.embed_scale).to(y.dtype)

    @property
    def is_plain(self) -> bool:
        """Is it two products and nothing else?"""
        return self.stretch is None and self.update.bias is None and not self.update.on_embedding

    def add_to(self, call: WrappedCall, group: RowGroup) -> bool:
        """Add ``change`` to ``call.y`` in place where that needs no tensor as large as the answer; else no."""
        y, part = call.y[group.rows], self.update
        if not self.is_plain or y.dtype != part.b.dtype or not y.is_contiguous():
            return False
        narrow = self._scaled(call.x[group.rows], group, y)
        y.view(-1, y.shape[-1]).addmm_(narrow.reshape(-1, narrow.shape[-1]), part.b.T)
        return True

    def _scaled(self, x: torch.Tensor, group: RowGroup, y: torch.Tensor) -> torch.Tensor:
        """(..., r), times the scaling of each row."""
        factors = factors_of(group, y)
        scaling = self.update.scaling * factors
        narrow = self._narrow(x)
        return narrow * (scaling.to(narrow.dtype) if isinstance(scaling, torch.Tensor) else scaling)

    def _narrow(self, x: torch.Tensor) -> torch.Tensor:
        """(..., r)"""
        if self.update.on_embedding:
            rows = functional.embedding(x, self.update.a.T)
            return rows.float() if self.is_split else rows
        return _times(x, self.update.a)


def _times(x: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """(..., out) x M^T. Numbers in float32 beside a matrix in bfloat16 are those of a split base, and stay so."""
    if x.dtype is torch.float32 and matrix.dtype is STORED:
        return product_of(x, matrix)
    return x.to(matrix.dtype) @ matrix.T


def _norms(update: LowRankUpdate, inner: nn.Module) -> torch.Tensor:
    """(out,): of the rows of W + s B A."""
    weight = inner.get_parameter("weight").detach()
    kind = torch.float32 if is_split(inner) else update.b.dtype
    weight = (weight.T if isinstance(inner, Conv1D) else weight).to(kind)
    return torch.addmm(weight, update.b.to(kind), update.a.to(kind), alpha=update.scaling).norm(dim=1)
