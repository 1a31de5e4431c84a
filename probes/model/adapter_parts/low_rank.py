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
        self.bias: torch.Tensor | None = getattr(inner, "bias", None)
        self.stretch = None if update.magnitude is None else update.magnitude / _norms(update, inner)
        scale = getattr(inner, "embed_scale", None) if update.on_embedding else None
        self.embed_scale: float | torch.Tensor = 1.0 if scale is None else scale

    def change(self, call: WrappedCall, group: RowGroup) -> torch.Tensor:
        x, y = call.x[group.rows], call.y[group.rows]
        factors, part = factors_of(group, y), self.update
        if self.stretch is not None:
            linear = y if self.bias is None else y - self.bias
            added = (self._narrow(x) * part.scaling @ part.b.T) * self.stretch
            return ((linear * (self.stretch - 1) + added) * factors).to(y.dtype)
        # Scaled between A and B, where a token has r numbers and not the width of the layer.
        change = self._narrow(x) * (part.scaling * factors).to(part.a.dtype) @ part.b.T
        if part.bias is not None:
            change = change + part.bias * (part.scaling * factors)
        return (change if part.on_embedding is False else change * self.embed_scale).to(y.dtype)

    def _narrow(self, x: torch.Tensor) -> torch.Tensor:
        """(..., r)"""
        if self.update.on_embedding:
            return functional.embedding(x, self.update.a.T)
        return x.to(self.update.a.dtype) @ self.update.a.T


def _norms(update: LowRankUpdate, inner: nn.Module) -> torch.Tensor:
    """(out,): of the rows of W + s B A."""
    weight = inner.get_parameter("weight").detach()
    weight = (weight.T if isinstance(inner, Conv1D) else weight).to(update.b.dtype)
    return torch.addmm(weight, update.b, update.a, alpha=update.scaling).norm(dim=1)
