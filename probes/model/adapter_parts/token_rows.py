"""Rows of an embedding that an adapter replaces (trainable_token_indices), also in an output layer tied to it.

PEFT 0.21, peft.tuners.trainable_tokens: the rows stand in place of the base's, in both modules where they share one
weight.
"""

from __future__ import annotations

import torch
from torch import nn

from probes.model.adapter_parts.wrapped_call import RowGroup, WrappedCall, factors_of
from probes.model.precision.split_products import is_split


class TokenRowsPart:
    """The difference of those rows from the base's."""

    def __init__(self, ids: torch.Tensor, values: torch.Tensor, inner: nn.Module) -> None:
        weight = inner.get_parameter("weight").detach()
        self.ids, self.looked_up = ids, isinstance(inner, nn.Embedding)
        # With a row of zeros behind it, for all other tokens.
        rows = values.float() if is_split(inner) else values
        self.delta = torch.cat([rows - weight[ids].to(rows.dtype), torch.zeros_like(rows[:1])])
        self.place = torch.full((len(weight),), len(ids), device=weight.device)
        self.place[ids] = torch.arange(len(ids), device=weight.device)
        scale = getattr(inner, "embed_scale", None)
        self.embed_scale: float | torch.Tensor = 1.0 if scale is None else scale

    def change(self, call: WrappedCall, group: RowGroup) -> torch.Tensor:
        x, y = call.x[group.rows], call.y[group.rows]
        factors = factors_of(group, y)
        if self.looked_up:
            return (self.delta[self.place[x]] * self.embed_scale * factors).to(y.dtype)
        change = torch.zeros_like(y)
        change[..., self.ids] = ((x @ self.delta[:-1].T) * factors).to(y.dtype)
        return change
