"""Products in nearly float32 on weights that stay in bfloat16: the input is split in two, and each half is multiplied.

With h = bfloat16(x) and l = bfloat16(x - h), x W^T = h W^T + l W^T up to 2^-17 of x: both products of bfloat16 numbers
are exact in float32, in which they are summed. A GPU does them on its tensor cores, at half the rate of bfloat16 alone,
and a weight takes two bytes. Nothing else is rounded: embeddings are widened when they are looked up, and norms,
attention, residuals and logits are float32.

Only modules that are ``nn.Linear`` or ``nn.Embedding`` themselves are split; a subclass has arithmetic of its own and
holds float32. A module that is given rounded numbers raises: its model rounds in between, by the dtype of a weight.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional

STORED = torch.bfloat16


class RoundedBefore(RuntimeError):
    """A split module was given numbers that were rounded before: no product would bring them back."""


class SplitLinear(nn.Linear):
    """A linear layer whose weight is in bfloat16, for inputs in float32; its bias and answer are float32."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        product = product_of(input, self.weight)
        return product if self.bias is None else product.add_(self.bias)


class SplitEmbedding(nn.Embedding):
    """An embedding whose weight is in bfloat16; the rows that are looked up are float32, every bit kept."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input).float()


SPLIT: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: SplitLinear, nn.Embedding: SplitEmbedding}


def product_of(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(..., out) x W^T in float32. x: (..., in) float32; weight: (out, in) bfloat16, or float32 for a plain product.

    Raises RoundedBefore where x is in another dtype.
    """
    if x.dtype is not torch.float32:
        raise RoundedBefore(f"a split product was given {str(x.dtype).removeprefix('torch.')} numbers")
    if weight.dtype is not STORED:
        return functional.linear(x, weight)
    flat = x.reshape(-1, x.shape[-1])
    high = flat.to(STORED)
    low = (flat - high).to(STORED)
    return _summed(high, low, weight).view(*x.shape[:-1], len(weight))


def _summed(high: torch.Tensor, low: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    if high.is_cuda:
        product = torch.mm(high, weight.T, out_dtype=torch.float32)
        return product.add_(torch.mm(low, weight.T, out_dtype=torch.float32))
    # No such product here: both halves together, as float32 has room for, by weights that are widened for it.
    return functional.linear(high.float().add_(low), weight.float())


def is_available(device: torch.device) -> bool:
    """Does this device multiply bfloat16 numbers with sums and answers in float32?"""
    try:
        some = torch.ones(16, 16, dtype=torch.float32, device=device)
        return bool(torch.equal(product_of(some, some.to(STORED)), some * 16))
    except (RuntimeError, TypeError):  # an older card or library, or none
        return False


def split_class(kind: type[Any]) -> type[Any]:
    """A class like this one of transformers whose layers are split as soon as they exist, without memory yet: weights
    that are loaded into them then keep their bytes, and no number of the model is created in a narrower dtype."""

    def created(self: Any, *args: Any, **kwargs: Any) -> None:
        kind.__init__(self, *args, **kwargs)
        split_layers(self)

    return type(kind.__name__, (kind,), {"__init__": created, "__module__": kind.__module__})


def split_layers(network: nn.Module) -> None:
    """In place: the weights of linear layers and embeddings become bfloat16, but for those that another kind of module
    holds too."""
    others = {id(weight) for module in network.modules() if type(module) not in SPLIT for weight in _own(module)}
    for module in network.modules():
        if (split := SPLIT.get(type(module))) is not None and id(module.weight) not in others:
            weight = module.get_parameter("weight").detach()
            module.__class__ = split
            module.weight = nn.Parameter(weight.to(STORED), requires_grad=False)


def _own(module: nn.Module) -> Iterator[nn.Parameter]:
    return module.parameters(recurse=False)


def is_split(module: nn.Module) -> bool:
    return isinstance(module, SplitLinear | SplitEmbedding)
