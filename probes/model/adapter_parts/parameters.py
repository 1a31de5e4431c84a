"""LoRA on parameters of a module (target_parameters), such as all experts of a mixture in one tensor.

A change inside experts does not add up to a change of their answer, so the module is run again for the adapter's rows
with W + m s B A in place of W; the sum exists during the call alone, one module at a time.

PEFT 0.21, peft.tuners.lora.layer.ParamWrapper: of E experts A is (E r, in), its rows sorted by expert, and B is
(out, r E), its columns sorted by rank and then by expert. A parameter lies as (E, out, in), or as (E, in, out) where
its module says ``is_transposed``; one of two dimensions is (out, in).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from probes.artefacts.lora_files import ParameterUpdates
from probes.artefacts.target_modules import TargetModules
from probes.model.adapter_parts.wrapped_call import RowGroup, WrappedCall
from probes.model.precision.split_products import is_split

Pair = tuple[torch.Tensor, torch.Tensor]


def targeted(path: str, module: nn.Module, targets: TargetModules) -> list[str]:
    """Names of the module's own parameters that get an update, in its order."""
    return [name for name, _ in module.named_parameters(recurse=False) if targets.takes_parameter(f"{path}.{name}")]


def misfit(updates: ParameterUpdates, path: str, module: nn.Module, targets: TargetModules) -> str:
    """Why these updates cannot be put on this module, "" where they can."""
    names = targeted(path, module, targets)
    if len(names) != len(updates.pairs):
        return f"has {len(updates.pairs)} updates where the base has {len(names)} targeted parameters"
    for name, (a, b) in zip(names, updates.pairs, strict=True):
        parameter = module.get_parameter(name)
        if parameter.dim() not in (2, 3):
            return f".{name} has {parameter.dim()} dimensions"
        experts, out, inputs = _shape(parameter, module)
        if (b.shape[0], a.shape[1]) != (out, inputs) or a.shape[0] != b.shape[1] or a.shape[0] % experts:
            return f".{name} has {b.shape[0]} x {a.shape[1]} where the base has {experts} of {out} x {inputs}"
    return ""


class ParametersPart:
    """One adapter's updates of the parameters of ``inner``."""

    def __init__(self, updates: ParameterUpdates, path: str, inner: nn.Module, names: Sequence[str]) -> None:
        self.inner = inner
        self.updates = {
            name: (pair, updates.factors.scaling(f"{path}.{name}"))
            for name, pair in zip(names, updates.pairs, strict=True)
        }

    def change(self, call: WrappedCall, group: RowGroup) -> torch.Tensor:
        change = torch.zeros_like(call.y[group.rows])
        for multiple, rows in group.by_multiple().items():
            args, kwargs = call.of_rows(rows)
            answer: torch.Tensor = torch.func.functional_call(self.inner, self._weights(multiple), args, kwargs)
            places = [row - group.start for row in rows]
            change[places] = call.rows_first(answer) - call.y[list(rows)]
        return change

    def _weights(self, multiple: float) -> dict[str, torch.Tensor]:
        weights = {}
        for name, (pair, scaling) in self.updates.items():
            own = self.inner.get_parameter(name).detach()
            own = own.float() if is_split(self.inner) else own
            weights[name] = (own + multiple * scaling * _product(pair, own, self.inner)).to(own.dtype)
        return weights


def _shape(parameter: torch.Tensor, module: nn.Module) -> tuple[int, int, int]:
    """Experts, outputs, inputs."""
    if parameter.dim() == 2:
        return 1, int(parameter.shape[0]), int(parameter.shape[1])
    experts, first, second = map(int, parameter.shape)
    return (experts, second, first) if _transposed(module) else (experts, first, second)


def _product(pair: Pair, parameter: torch.Tensor, module: nn.Module) -> torch.Tensor:
    """B A of every expert, as the parameter lies."""
    a, b = pair
    if parameter.dim() == 2:
        return b @ a
    experts = parameter.shape[0]
    by_expert = a.unflatten(0, (experts, -1)), b.unflatten(1, (-1, experts)).permute(2, 0, 1)
    product = by_expert[1] @ by_expert[0]
    return product.transpose(1, 2) if _transposed(module) else product


def _transposed(module: nn.Module) -> bool:
    return bool(getattr(module, "is_transposed", False))
