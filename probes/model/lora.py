"""Multi-adapter batched LoRA: in one forward pass each row of the batch is answered under its own adapter and strength,
or by the base.

Each module that adapters change is wrapped once in a ``LoraModule``. Which rows use which adapter is stated by one
``RowSelection`` that all wrapped modules of a model share, set before each forward pass; rows of one adapter are
adjacent, so the contribution of each is one slice. A pass without adapter rows runs the base's own modules and nothing
else. Checked against PEFT, one text at a time, in tests/probes/model/test_lora.py.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from probes.artefacts.adapter_keys import name_differences
from probes.artefacts.lora_files import LoraAdapter, LowRankUpdate, count_with_examples
from probes.artefacts.target_modules import ALL_LINEAR
from probes.errors import Unsupported

# Some recurrent layers read the weights of a module instead of calling it, and so bypass the wrapper around it.
UNCALLED = "on modules that this base does not call with the rows of a batch (it reads their weights, or picks tokens)"


@dataclass(frozen=True, slots=True, eq=False)
class RowGroup:
    """Rows [start, stop) of a batch use ``adapter``; scales: (stop - start,) multiples of its own scaling."""

    adapter: str
    start: int
    stop: int
    scales: torch.Tensor


@dataclass(slots=True)
class RowSelection:
    """Which adapter each row of the forward pass in progress uses.

    total: rows of the batch, of which those in no group are the base's; columns: tokens of each row in this pass
    """

    total: int = 0
    columns: int = 1
    groups: tuple[RowGroup, ...] = ()

    @contextmanager
    def for_pass(self, groups: tuple[RowGroup, ...], total: int, columns: int = 1) -> Iterator[None]:
        """Set for one forward pass, cleared after it also when it fails."""
        self.groups, self.total, self.columns = groups, total, columns
        try:
            yield
        finally:
            self.groups, self.total, self.columns = (), 0, 1


class RowMismatch(RuntimeError):
    """A module was not called with the rows of the batch (experts of a mixture), so which adapter each row uses is
    unknown."""


class LoraModule(nn.Module):
    """A module of the base with the parts of adapters that change it.

    low_rank: adapter -> its A and B for this module; saved: adapter -> the module with the adapter's own parameters
    (modules_to_save)
    """

    def __init__(self, name: str, inner: nn.Module, selection: RowSelection) -> None:
        super().__init__()
        self.name, self.inner, self.selection = name, inner, selection
        self.low_rank: dict[str, LowRankUpdate] = {}
        # Not a ModuleDict: adapter names may hold dots, and these are no parameters of the model.
        self.saved: dict[str, nn.Module] = {}

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        y: torch.Tensor = self.inner(x, *args, **kwargs)
        groups = [g for g in self.selection.groups if g.adapter in self.low_rank or g.adapter in self.saved]
        if not groups:
            return y
        x, by_rows = self._by_rows(x), self._by_rows(y)  # the latter is a view of y
        for group in groups:
            rows = slice(group.start, group.stop)
            by_rows[rows] += self._change(group, x[rows], by_rows[rows], args, kwargs)
        return y

    def _by_rows(self, x: torch.Tensor) -> torch.Tensor:
        """With the batch's rows first, also where the model flattens rows and tokens to (B * L, H)."""
        total, columns = self.selection.total, self.selection.columns
        if x.dim() == 2 and columns > 1 and x.shape[0] == total * columns:
            return x.unflatten(0, (total, columns))
        if x.shape[0] != total:
            raise RowMismatch(f"{self.name} was called with {x.shape[0]} rows in a batch of {total}")
        return x

    def _change(self, group: RowGroup, x: torch.Tensor, y: torch.Tensor, args: Any, kwargs: Any) -> torch.Tensor:
        """What the adapter adds to its rows; a saved module counts as a difference, so that scale 0 is the base."""
        scales = group.scales.view(-1, *[1] * (y.dim() - 1))
        changes = []
        if (own_module := self.saved.get(group.adapter)) is not None:
            changes.append((own_module(x, *args, **kwargs) - y) * scales)
        if (part := self.low_rank.get(group.adapter)) is not None:
            # Scaled between A and B, where a token has r numbers and not the width of the layer.
            narrow = x.to(part.a.dtype) @ part.a.T * (part.scaling * scales).to(part.a.dtype)
            changes.append((narrow @ part.b.T).to(y.dtype))
        return changes[0] if len(changes) == 1 else changes[0] + changes[1]

    def __getattr__(self, name: str) -> Any:
        """Models read ``weight`` or ``bias`` of their own modules; they get the base's."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)


@dataclass(frozen=True, slots=True, eq=False)
class AppliedAdapter:
    """What of an adapter is applied to one model. facts: what is not, in words.

    adapter: as read while it is only matched; once applied just what fits, with the tensors that are in use
    """

    adapter: LoraAdapter
    modules: tuple[str, ...]
    facts: tuple[str, ...]


@dataclass(slots=True)
class AppliedAdapters:
    """The adapters on one model. ``apply`` and ``remove`` change it; ``selection`` is set by whoever runs the model.

    rowwise: names of the modules that the model calls with all rows of a batch (invariance.py); None: not known
    """

    model: nn.Module
    selection: RowSelection = field(default_factory=RowSelection)
    applied: dict[str, AppliedAdapter] = field(default_factory=dict)
    rowwise: frozenset[str] | None = None

    def apply(self, name: str, adapter: LoraAdapter) -> AppliedAdapter:
        """Apply what fits of ``adapter`` under ``name``, replacing what had that name; the rest becomes facts.

        Tensors that have the right type on the right device are shared: a variant of an adapter that is applied already
        (``applied[name].adapter``) costs no memory of its own.

        Raises Unsupported, with nothing under that name, for a part on a module that is not called with rows.
        """
        matched = match_modules(adapter, self.model)
        if self.rowwise is not None and (lost := [path for path in matched.modules if path not in self.rowwise]):
            self.remove(name)
            raise Unsupported(adapter.path, count_with_examples(f"of {len(matched.modules)} parts {UNCALLED}", lost))
        matched = replace(matched, adapter=self._placed(matched))
        self.remove(name)
        for module in matched.modules:
            self._install(name, module, matched.adapter)
        self.applied[name] = matched
        return matched

    def remove(self, name: str) -> None:
        """Take the adapter of that name off; nothing happens when there is none."""
        self.applied.pop(name, None)
        for module in self.model.modules():
            if isinstance(module, LoraModule):
                module.low_rank.pop(name, None)
                module.saved.pop(name, None)

    def _placed(self, matched: AppliedAdapter) -> LoraAdapter:
        """What of the adapter fits, on the model's device and in the types that it is computed in."""
        low_rank, saved = {}, {}
        for path in matched.modules:
            module = self.model.get_submodule(path)
            own = dict((module.inner if isinstance(module, LoraModule) else module).named_parameters(recurse=False))
            place = next(module.parameters())
            if path in matched.adapter.saved:
                tensors = matched.adapter.saved[path]
                saved[path] = {name: tensor.to(own[name].device, own[name].dtype) for name, tensor in tensors.items()}
            if (part := matched.adapter.low_rank.get(path)) is not None:
                low_rank[path] = _moved(part, place)
        return replace(matched.adapter, low_rank=low_rank, saved=saved)

    def _install(self, name: str, path: str, adapter: LoraAdapter) -> None:
        module = self._wrapped(path)
        if path in adapter.saved:
            module.saved[name] = _copied(module.inner, adapter.saved[path], adapter.saved_share)
        if (part := adapter.low_rank.get(path)) is not None:
            module.low_rank[name] = part

    def _wrapped(self, path: str) -> LoraModule:
        module = self.model.get_submodule(path)
        if isinstance(module, LoraModule):
            return module
        owner, _, last = path.rpartition(".")
        wrapped = LoraModule(path, module, self.selection)
        setattr(self.model.get_submodule(owner), last, wrapped)
        return wrapped


def match_modules(adapter: LoraAdapter, model: nn.Module) -> AppliedAdapter:
    """Which modules of ``model`` this adapter fits. Facts: keys that match nothing, shapes, no effect, no keys.

    Nothing is refused here: an engine would leave out what does not fit without a warning, and that is the fault to
    detect.
    """
    modules = _own_modules(model)
    facts = list(adapter.problems)
    kept_out = _output_layer(model, modules) if adapter.targets.all_linear else ""
    if kept_out in adapter.low_rank:
        facts.append(f"{kept_out} is the output layer, which {ALL_LINEAR} leaves out")
        others = {path: part for path, part in adapter.low_rank.items() if path != kept_out}
        adapter = replace(adapter, low_rank=others)
    wanted = sorted({*adapter.low_rank, *adapter.saved})
    missing = [path for path in wanted if path not in modules]
    misfits = {path: why for path in wanted if path in modules and (why := _misfit(adapter, path, modules[path]))}
    fits = tuple(path for path in wanted if path in modules and path not in misfits)
    if missing:
        facts.append(
            count_with_examples(
                f"of {len(wanted)} modules match nothing in this base{name_differences(missing, modules)}", missing
            )
        )
    if misfits:
        facts.append(
            count_with_examples(
                f"of {len(wanted)} modules do not fit", [f"{path} {why}" for path, why in misfits.items()]
            )
        )
    if fits and _has_no_effect(adapter, fits):
        facts.append("the effect is zero: every lora_B holds nothing but zeros")
    if not wanted and not facts:
        facts.append("the files hold no tensors of an adapter")
    linear = [path for path, module in modules.items() if isinstance(module, nn.Linear) and path != kept_out]
    targeted = sorted(path for path in linear if adapter.targets.takes(path))
    if without := [path for path in targeted if path not in adapter.low_rank]:
        facts.append(count_with_examples(f"of {len(targeted)} targeted modules have no part in the files", without))
    return AppliedAdapter(adapter, fits, tuple(facts))


def _own_modules(model: nn.Module) -> dict[str, nn.Module]:
    """The base's modules under their own names, as if none were wrapped."""
    wrapped = [module for module in model.modules() if isinstance(module, LoraModule)]
    hidden = {id(wrapper) for wrapper in wrapped} | {id(wrapper.inner) for wrapper in wrapped}
    bare = {name: module for name, module in model.named_modules() if id(module) not in hidden}
    return bare | {wrapper.name: wrapper.inner for wrapper in wrapped}


def _output_layer(model: nn.Module, modules: Mapping[str, nn.Module]) -> str:
    """Its name, "" for a model without an output layer."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    plain = head.inner if isinstance(head, LoraModule) else head
    return next((name for name, module in modules.items() if module is plain), "")


def _misfit(adapter: LoraAdapter, path: str, module: nn.Module) -> str:
    """Why this part cannot be put on this module, or "" where it can."""
    if path in adapter.saved and (why := _saved_misfit(adapter.saved[path], module)):
        return why
    if path not in adapter.low_rank:
        return ""
    part = adapter.low_rank[path]
    shape = (part.b.shape[0], part.a.shape[1])
    if not isinstance(module, nn.Linear):
        return f"is a {type(module).__name__}, not linear"
    wanted = (module.out_features, module.in_features)
    if shape != wanted or part.a.shape[0] != part.b.shape[1]:
        return f"has {shape[0]} x {shape[1]} where the base has {wanted[0]} x {wanted[1]}"
    return ""


def _saved_misfit(saved: Mapping[str, torch.Tensor], inner: nn.Module) -> str:
    own = dict(inner.named_parameters(recurse=False))
    for name, tensor in saved.items():
        if name not in own:
            return f"has no {name}"
        if own[name].shape != tensor.shape:
            return f".{name} has {tuple(tensor.shape)} where the base has {tuple(own[name].shape)}"
    return ""


def _has_no_effect(adapter: LoraAdapter, fits: Sequence[str]) -> bool:
    return not any(path in adapter.saved or bool(adapter.low_rank[path].b.count_nonzero()) for path in fits)


def _moved(part: LowRankUpdate, place: torch.Tensor) -> LowRankUpdate:
    """On the device of ``place``, in the wider of its type and the part's own."""
    a, b = (half.to(place.device, torch.promote_types(half.dtype, place.dtype)) for half in (part.a, part.b))
    kind = torch.promote_types(a.dtype, b.dtype)
    return LowRankUpdate(a.to(kind), b.to(kind), part.scaling)


def _copied(inner: nn.Module, saved: Mapping[str, torch.Tensor], share: float) -> nn.Module:
    """The module with the adapter's parameters in it, or ``share`` of the way from the base's to them; parameters that
    the adapter did not save stay the base's."""
    copied = copy.copy(inner)
    copied._parameters = dict(inner._parameters)
    for name, tensor in saved.items():
        own = inner._parameters[name]
        assert own is not None
        value = tensor if share == 1 else torch.lerp(own.detach(), tensor, share)
        copied._parameters[name] = nn.Parameter(value, requires_grad=False)
    return copied


def row_groups(targets: Iterable[tuple[str | None, float]], device: torch.device) -> tuple[RowGroup, ...]:
    """Groups for rows in this order; rows of one adapter must be adjacent, the base's rows (None) get no group."""
    rows = list(targets)
    groups, start = [], 0
    while start < len(rows):
        name = rows[start][0]
        stop = next((i for i in range(start, len(rows)) if rows[i][0] != name), len(rows))
        if name is not None:
            scales = torch.tensor([scale for _, scale in rows[start:stop]], dtype=torch.float32, device=device)
            groups.append(RowGroup(name, start, stop, scales))
        start = stop
    return tuple(groups)
