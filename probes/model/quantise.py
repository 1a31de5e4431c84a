"""A base as if its weights had been stored in a few bits: rounded to the nearest level, and back.

The injected fault QUANTISED, and the alternative "4 bits" of responses, are answered by such a copy. Another rounding
is another fault than the one whose signatures golden records hold.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from probes.errors import Unsupported
from probes.model.lora import PLAIN_TYPES, LoraModule

LEAST_LARGEST = 1e-12  # so that a row of zeros stays zero


def levels(bits: int) -> int:
    """Steps to either side of zero of a signed number in so many bits, symmetric: 7 for 4 bits. bits: 2 to 8."""
    if not 2 <= bits <= 8:
        raise ValueError(f"{bits} bits: wanted 2 to 8")
    return int(2 ** (bits - 1) - 1)


def rounded_rows(weight: torch.Tensor, bits: int, group: int = 0) -> torch.Tensor:
    """The weight on the nearest of ``2 * levels + 1`` equal steps for each output row, in its own type.

    weight: (out, in), any float type; group: weights of a row that share a scale, 0 for the whole row; a row's end may
    hold fewer. The largest weight of each group is unchanged.

    The plainest of the schemes in use: round to nearest. NF4, GPTQ or AWQ err in other directions and by less for the
    same number of bits, so bits here stand for a size of error and not for a file format.
    """
    parts = weight.float().split(group or weight.shape[1], dim=1)
    steps = [part.abs().amax(dim=1, keepdim=True).clamp(min=LEAST_LARGEST) / levels(bits) for part in parts]
    rounded = [(part / step).round() * step for part, step in zip(parts, steps, strict=True)]
    return torch.cat(rounded, dim=1).to(weight.dtype)


def with_weights(network: Any, rounding: Callable[[torch.Tensor], torch.Tensor], how: str) -> Any:
    """A copy of a transformers model whose linear layers hold what ``rounding`` makes of their weights, (out, in), in
    the same type; all other tensors are shared. how: for the error

    Rounded is every ``nn.Linear`` but the output layer; embeddings, norms, the output layer, and weights that are no
    ``nn.Linear`` (fused experts) stay those of ``network`` and share its memory. Adapters are not copied.
    Raises Unsupported when nothing would be rounded, as where weights are packed; ValueError where ``rounding`` does.
    """
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    for module in reversed(list(network.modules())):  # inner ones first: a wrapped module may be inside another
        if isinstance(module, LoraModule):
            shared[id(module)] = copy.deepcopy(module.inner, shared)
    copied = copy.deepcopy(network, shared)
    head = copied.get_output_embeddings()
    layers = [module for module in copied.modules() if isinstance(module, nn.Linear) and module is not head]
    linear = [module for module in layers if module.weight.dtype in PLAIN_TYPES]
    if not linear:
        raise Unsupported(type(network).__name__, f"rounding {how} (no linear layers of plain weights)")
    for module in linear:
        module.weight = nn.Parameter(rounding(module.weight.detach()), requires_grad=False)
    return copied
