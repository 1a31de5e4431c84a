"""A module that an adapter replaces whole (modules_to_save)."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import nn

from probes.model.adapter_parts.wrapped_call import RowGroup, WrappedCall, factors_of


class SavedModule:
    """It counts as a difference from the base's module, so that a multiple of 0 is the base."""

    def __init__(self, inner: nn.Module, saved: Mapping[str, torch.Tensor], share: float) -> None:
        self.own = _copied(inner, saved, share)

    def change(self, call: WrappedCall, group: RowGroup) -> torch.Tensor:
        y = call.y[group.rows]
        own: torch.Tensor = self.own(call.x[group.rows], *call.args, **call.kwargs)
        return (own - y) * factors_of(group, y)


def _copied(inner: nn.Module, saved: Mapping[str, torch.Tensor], share: float) -> nn.Module:
    """The module with the adapter's parameters in it, or ``share`` of the way from the base's to them; parameters that
    the adapter did not save stay the base's."""
    copied = copy.copy(inner)
    copied._parameters = dict(inner._parameters)
    for name, tensor in saved.items():
        own = inner._parameters[name]
        assert own is not None
        value = tensor if share == 1 else torch.lerp(own.detach().to(tensor.dtype), tensor, share)
        copied._parameters[name] = nn.Parameter(value, requires_grad=False)
    return copied
