"""Applies adapters inside a model: one batch, each row answered under its own adapter and strength, or by the base.

The modules that adapters touch are wrapped once in a ``Switch``. Which rows belong to whom is said by a ``RowAdapters``
that all switches of one model share and that is set before each forward pass; rows of one adapter lie together, so
each part is one slice. A pass without adapter rows runs the base's own modules and nothing else.
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

# A model that reads a module's weights, as some recurrent layers do, goes past what is put beside it.
UNCALLED = "on modules that this base does not call with the rows of a batch (it reads their weights, or picks tokens)"


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Rows [start, stop) answer under ``adapter``; scales: (stop - start,) multiples of its own scaling."""

    adapter: str
    start: int
    stop: int
    scales: torch.Tensor


@dataclass(slots=True)
class RowAdapters:
    """Who answers which row of the forward pass in progress. total: rows of the batch; the rest are the base's.

    columns: tokens of each row, in this pass
    """

    total: int = 0
    columns: int = 1
    groups: tuple[Group, ...] = ()

    @contextmanager
    def answering(self, groups: tuple[Group, ...], total: int, columns: int = 1) -> Iterator[None]:
        """Set for one forward pass, cleared after it also when it fails."""
        self.groups, self.total, self.columns = groups, total, columns
        try:
            yield
        finally:
            self.groups, self.total, self.columns = (), 0, 1


class Misplaced(RuntimeError):
    """A module was not called with the rows of the batch (experts of a mixture), so its rows cannot be told apart."""


class Switch(nn.Module):
    """A module of the base, and what each adapter puts beside it or in its place."""

    def __init__(self, name: str, inner: nn.Module, rows: RowAdapters) -> None:
        super().__init__()
        self.name, self.inner, self.rows = name, inner, rows
        self.parts: dict[str, LowRankUpdate] = {}
        # Not a ModuleDict: adapter names may hold dots, and these are no parameters of the model.
        self.copies: dict[str, nn.Module] = {}

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        y: torch.Tensor = self.inner(x, *args, **kwargs)
        mine = [group for group in self.rows.groups if group.adapter in self.parts or group.adapter in self.copies]
        if not mine:
            return y
        x, by_rows = self._by_rows(x), self._by_rows(y)  # the latter looks into y itself
        for group in mine:
            here = slice(group.start, group.stop)
            by_rows[here] += self._change(group, x[here], by_rows[here], args, kwargs)
        return y

    def _by_rows(self, x: torch.Tensor) -> torch.Tensor:
        """With the batch's rows first, also where the model lays their tokens one after the other, as (B * L, H)."""
        total, columns = self.rows.total, self.rows.columns
        if x.dim() == 2 and columns > 1 and x.shape[0] == total * columns:
            return x.unflatten(0, (total, columns))
        if x.shape[0] != total:
            raise Misplaced(f"{self.name} saw {x.shape[0]} rows in a batch of {total}")
        return x

    def _change(self, group: Group, x: torch.Tensor, y: torch.Tensor, args: Any, kwargs: Any) -> torch.Tensor:
        """What the adapter adds to its rows; a saved module counts as a difference, so that scale 0 is the base."""
        scales = group.scales.view(-1, *[1] * (y.dim() - 1))
        changes = []
        if (twin := self.copies.get(group.adapter)) is not None:
            changes.append((twin(x, *args, **kwargs) - y) * scales)
        if (part := self.parts.get(group.adapter)) is not None:
            # Scaled between the halves, where there are r numbers a token and not a whole width of them.
            narrow = x.to(part.a.dtype) @ part.a.T * (part.scaling * scales).to(part.a.dtype)
            changes.append((narrow @ part.b.T).to(y.dtype))
        return changes[0] if len(changes) == 1 else changes[0] + changes[1]

    def __getattr__(self, name: str) -> Any:
        """Models look at ``weight`` or ``bias`` of their own modules; they find the base's."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """What of an adapter is applied to one model. facts: what is not, in words.

    adapter: as read while it is only planned; once on a switchboard just what fits, with the tensors that are in use
    """

    adapter: LoraAdapter
    modules: tuple[str, ...]
    facts: tuple[str, ...]


@dataclass(slots=True)
class Switchboard:
    """The adapters of one model. ``fit`` and ``remove`` change it; ``rows`` is set by whoever runs it.

    rowwise: names of the modules that the model calls with all of a batch's rows (trial.py); None: not known
    """

    model: nn.Module
    rows: RowAdapters = field(default_factory=RowAdapters)
    fitted: dict[str, Fitted] = field(default_factory=dict)
    rowwise: frozenset[str] | None = None

    def fit(self, name: str, adapter: LoraAdapter) -> Fitted:
        """Apply what fits of ``adapter`` under ``name``, in place of what had that name; the rest becomes facts.

        Tensors that already lie where and as they are needed are shared: a variant of an adapter that is on this
        board (``fitted[name].adapter``) costs no memory of its own.

        Raises Unsupported, with nothing under that name, for a part on a module that is not called with rows.
        """
        plan = fitting(adapter, self.model)
        if self.rowwise is not None and (lost := [path for path in plan.modules if path not in self.rowwise]):
            self.remove(name)
            raise Unsupported(adapter.path, count_with_examples(f"of {len(plan.modules)} parts {UNCALLED}", lost))
        plan = replace(plan, adapter=self._placed(plan))
        self.remove(name)
        for module in plan.modules:
            self._install(name, module, plan.adapter)
        self.fitted[name] = plan
        return plan

    def remove(self, name: str) -> None:
        """Take the adapter of that name out again; nothing happens when there is none."""
        self.fitted.pop(name, None)
        for module in self.model.modules():
            if isinstance(module, Switch):
                module.parts.pop(name, None)
                module.copies.pop(name, None)

    def _placed(self, plan: Fitted) -> LoraAdapter:
        """What of the adapter fits, on the model's device and in the types that it is computed in."""
        low_rank, saved = {}, {}
        for path in plan.modules:
            found = self.model.get_submodule(path)
            own = dict((found.inner if isinstance(found, Switch) else found).named_parameters(recurse=False))
            place = next(found.parameters())
            if path in plan.adapter.saved:
                tensors = plan.adapter.saved[path]
                saved[path] = {name: it.to(own[name].device, own[name].dtype) for name, it in tensors.items()}
            if (part := plan.adapter.low_rank.get(path)) is not None:
                low_rank[path] = _moved(part, place)
        return replace(plan.adapter, low_rank=low_rank, saved=saved)

    def _install(self, name: str, path: str, adapter: LoraAdapter) -> None:
        switch = self._switch(path)
        if path in adapter.saved:
            switch.copies[name] = _copied(switch.inner, adapter.saved[path], adapter.saved_share)
        if (part := adapter.low_rank.get(path)) is not None:
            switch.parts[name] = part

    def _switch(self, path: str) -> Switch:
        found = self.model.get_submodule(path)
        if isinstance(found, Switch):
            return found
        owner, _, last = path.rpartition(".")
        switch = Switch(path, found, self.rows)
        setattr(self.model.get_submodule(owner), last, switch)
        return switch


def fitting(adapter: LoraAdapter, model: nn.Module) -> Fitted:
    """Which modules of ``model`` this adapter fits. Facts: keys that match nothing, shapes, no effect, no keys.

    Nothing is refused here: an engine would leave out what does not fit and say nothing, and that is the fault to see.
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
    if fits and _is_silent(adapter, fits):
        facts.append("the effect is zero: every lora_B holds nothing but zeros")
    if not wanted and not facts:
        facts.append("the files hold no tensors of an adapter")
    linear = [path for path, module in modules.items() if isinstance(module, nn.Linear) and path != kept_out]
    targeted = sorted(path for path in linear if adapter.targets.takes(path))
    if without := [path for path in targeted if path not in adapter.low_rank]:
        facts.append(count_with_examples(f"of {len(targeted)} targeted modules have no part in the files", without))
    return Fitted(adapter, fits, tuple(facts))


def _own_modules(model: nn.Module) -> dict[str, nn.Module]:
    """The base's modules under their own names, as if no switch were around them."""
    switches = [module for module in model.modules() if isinstance(module, Switch)]
    hidden = {id(switch) for switch in switches} | {id(switch.inner) for switch in switches}
    bare = {name: module for name, module in model.named_modules() if id(module) not in hidden}
    return bare | {switch.name: switch.inner for switch in switches}


def _output_layer(model: nn.Module, modules: Mapping[str, nn.Module]) -> str:
    """Its name, "" in a model without one."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    plain = head.inner if isinstance(head, Switch) else head
    return next((name for name, module in modules.items() if module is plain), "")


def _misfit(adapter: LoraAdapter, path: str, module: nn.Module) -> str:
    """Why this part cannot be put on this module, or "" where it can."""
    if path in adapter.saved and (why := _saved_misfit(adapter.saved[path], module)):
        return why
    if path not in adapter.low_rank:
        return ""
    part = adapter.low_rank[path]
    seen = (part.b.shape[0], part.a.shape[1])
    if not isinstance(module, nn.Linear):
        return f"is a {type(module).__name__}, not linear"
    wanted = (module.out_features, module.in_features)
    if seen != wanted or part.a.shape[0] != part.b.shape[1]:
        return f"has {seen[0]} x {seen[1]} where the base has {wanted[0]} x {wanted[1]}"
    return ""


def _saved_misfit(saved: Mapping[str, torch.Tensor], inner: nn.Module) -> str:
    own = dict(inner.named_parameters(recurse=False))
    for name, tensor in saved.items():
        if name not in own:
            return f"has no {name}"
        if own[name].shape != tensor.shape:
            return f".{name} has {tuple(tensor.shape)} where the base has {tuple(own[name].shape)}"
    return ""


def _is_silent(adapter: LoraAdapter, fits: Sequence[str]) -> bool:
    return not any(path in adapter.saved or bool(adapter.low_rank[path].b.count_nonzero()) for path in fits)


def _moved(part: LowRankUpdate, place: torch.Tensor) -> LowRankUpdate:
    """On the device of ``place``, in the wider of its type and the part's own."""
    a, b = (half.to(place.device, torch.promote_types(half.dtype, place.dtype)) for half in (part.a, part.b))
    kind = torch.promote_types(a.dtype, b.dtype)
    return LowRankUpdate(a.to(kind), b.to(kind), part.scaling)


def _copied(inner: nn.Module, saved: Mapping[str, torch.Tensor], share: float) -> nn.Module:
    """The module with the adapter's parameters in it, or ``share`` of the way there; the others stay the base's own."""
    twin = copy.copy(inner)
    twin._parameters = dict(inner._parameters)
    for name, tensor in saved.items():
        own = inner._parameters[name]
        assert own is not None
        there = tensor if share == 1 else torch.lerp(own.detach(), tensor, share)
        twin._parameters[name] = nn.Parameter(there, requires_grad=False)
    return twin


def grouped(targets: Iterable[tuple[str | None, float]], device: torch.device) -> tuple[Group, ...]:
    """Groups for rows in this order; rows of one adapter must lie together, the base's rows (None) get none."""
    rows = list(targets)
    groups, start = [], 0
    while start < len(rows):
        name = rows[start][0]
        stop = next((i for i in range(start, len(rows)) if rows[i][0] != name), len(rows))
        if name is not None:
            scales = torch.tensor([scale for _, scale in rows[start:stop]], dtype=torch.float32, device=device)
            groups.append(Group(name, start, stop, scales))
        start = stop
    return tuple(groups)
