"""Multi-adapter batched LoRA: in one forward pass each row of the batch is answered under its own adapter and strength,
or by the base.

Each module that adapters change is wrapped once in a ``LoraModule``. Which rows use which adapter is stated by one
``RowSelection`` that all wrapped modules of a model share, set before each forward pass; rows of one adapter are
adjacent, so the contribution of each is one slice. A pass without adapter rows runs the base's own modules and nothing
else. Checked against PEFT, one text at a time, in tests/probes/model/test_lora.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from probes.artefacts.adapter_keys import name_differences
from probes.artefacts.lora_files import LoraAdapter, LowRankUpdate, TokenRows, count_with_examples
from probes.artefacts.target_modules import ALL_LINEAR
from probes.errors import Unsupported
from probes.model.adapter_parts import grouped, parameters
from probes.model.adapter_parts.low_rank import LowRank, linear_shape
from probes.model.adapter_parts.parameters import ParametersPart
from probes.model.adapter_parts.saved_module import SavedModule
from probes.model.adapter_parts.token_rows import TokenRowsPart
from probes.model.adapter_parts.wrapped_call import Part, RowGroup, TokenLayout, WrappedCall, experts_in, layout_of
from probes.model.cache import body_of
from probes.model.precision.split_products import is_split

# What other types hold means something only together with scales beside them.
PLAIN_TYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# Some recurrent layers read the weights of a module instead of calling it, and so bypass the wrapper around it.
UNCALLED = (
    "on modules that this base does not call with the rows of a batch, or that answer with more than a tensor "
    "(it reads their weights, or picks tokens by them; its engine can answer instead: models[].served)"
)


@dataclass(slots=True)
class RowSelection:
    """Which adapter each row of the forward pass in progress uses.

    total: rows of the batch, of which those in no group are the base's; columns: tokens of each row in this pass
    called: names of the wrapped modules that were called in it
    """

    total: int = 0
    columns: int = 1
    groups: tuple[RowGroup, ...] = ()
    called: set[str] = field(default_factory=set)

    @contextmanager
    def for_pass(self, groups: tuple[RowGroup, ...], total: int, columns: int = 1) -> Iterator[None]:
        """Set for one forward pass, cleared after it also when it fails."""
        self.groups, self.total, self.columns = groups, total, columns
        self.called.clear()
        try:
            yield
        finally:
            self.groups, self.total, self.columns = (), 0, 1


class RowMismatch(RuntimeError):
    """A module was not called with the rows of the batch (experts of a mixture), so which adapter each row uses is
    unknown."""


class NotCalled(RuntimeError):
    """A module was not called in a pass that reads an adapter which changes it: the base computed without it, or with
    its weights alone, and the answer would be that of a part of the adapter."""


class LoraModule(nn.Module):
    """A module of the base with the parts of adapters that change it: adapter -> its parts, whose changes add up."""

    def __init__(self, name: str, inner: nn.Module, selection: RowSelection) -> None:
        super().__init__()
        self.name, self.inner, self.selection = name, inner, selection
        self.experts = experts_in(inner)
        # Not a ModuleDict: adapter names may hold dots, and these are no parameters of the model.
        self.parts: dict[str, list[Part]] = {}

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        y: torch.Tensor = self.inner(x, *args, **kwargs)
        self.selection.called.add(self.name)
        groups = [group for group in self.selection.groups if group.adapter in self.parts]
        if not groups:
            return y
        layout = self._layout(x)
        by_rows = self._layout(y).rows_first(y)  # a view of y
        call = WrappedCall(layout.rows_first(x), by_rows, args, kwargs, layout)
        parts_of = [self.parts[group.adapter] for group in groups]
        if grouped.is_faster(call, parts_of) and grouped.add_grouped(call, groups, parts_of):
            return y
        for group, parts in zip(groups, parts_of, strict=True):
            if len(parts) == 1 and isinstance(parts[0], LowRank) and parts[0].add_to(call, group):
                continue
            changes = [part.change(call, group) for part in parts]
            by_rows[group.rows] += changes[0] if len(changes) == 1 else torch.stack(changes).sum(0)
        return y

    def _layout(self, tokens: torch.Tensor) -> TokenLayout:
        """Raises RowMismatch where the module is given something else than the tokens of all rows."""
        total, columns = self.selection.total, self.selection.columns
        layout = layout_of(tokens, total, columns, self.experts)
        if layout is None:
            raise RowMismatch(f"{self.name} was called with {tokens.shape[0]} rows in a batch of {total}")
        return layout

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
    _changed: dict[tuple[nn.Module, str], frozenset[str]] = field(default_factory=dict)

    @contextmanager
    def for_pass(self, module: nn.Module, groups: tuple[RowGroup, ...], total: int, columns: int = 1) -> Iterator[None]:
        """One call of ``module``, which is the model or a part of it, as ``RowSelection.for_pass``.

        Raises NotCalled where a module within, which one of these adapters changes, was not called: some layers read
        the weights of their modules, on one way through them and not on another.
        """
        with self.selection.for_pass(groups, total, columns):
            yield
            for group in groups:
                changed = self._changed_within(module, group.adapter)
                if not self.selection.called >= changed:
                    lost = count_with_examples(
                        f"of {len(changed)} modules that {group.adapter} changes were not called in this pass",
                        sorted(changed - self.selection.called),
                    )
                    raise NotCalled(f"{lost}: this base reads their weights instead, and only its engine can answer")

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
        if quantised := [path for path in matched.modules if self._needs_plain_weights(matched.adapter, path)]:
            self.remove(name)
            feature = f"{adapter.beyond_low_rank} on weights that are stored quantised"
            raise Unsupported(adapter.path, f"{feature} ({count_with_examples('modules', quantised)})")
        matched = replace(matched, adapter=self._placed(matched))
        self.remove(name)
        for module in matched.modules:
            self._install(name, module, matched.adapter)
        self._changed.clear()
        self.applied[name] = matched
        return matched

    def remove(self, name: str) -> None:
        """Take the adapter of that name off; nothing happens when there is none."""
        self.applied.pop(name, None)
        self._changed.clear()
        for module in self.model.modules():
            if isinstance(module, LoraModule):
                module.parts.pop(name, None)

    def _changed_within(self, module: nn.Module, adapter: str) -> frozenset[str]:
        """Names of the modules within this one that the adapter changes."""
        if (module, adapter) not in self._changed:
            wrapped = (part for part in module.modules() if isinstance(part, LoraModule))
            self._changed[module, adapter] = frozenset(part.name for part in wrapped if adapter in part.parts)
        return self._changed[module, adapter]

    def _needs_plain_weights(self, adapter: LoraAdapter, path: str) -> bool:
        """Does a part of it compute with weights of this module that only their own library can read?"""
        part, module = adapter.low_rank.get(path), self.model.get_submodule(path)
        names = ["weight"] if part is not None and part.magnitude is not None else []
        if path in adapter.parameters:
            names += parameters.targeted(path, _bare(module), adapter.targets)
        return any(getattr(getattr(_bare(module), name, None), "dtype", None) not in PLAIN_TYPES for name in names)

    def _placed(self, matched: AppliedAdapter) -> LoraAdapter:
        """What of the adapter fits, on the model's device and in the types that it is computed in."""
        low_rank, saved, rows, own_parameters = {}, {}, {}, {}
        adapter = matched.adapter
        for path in matched.modules:
            module = self.model.get_submodule(path)
            own = dict(_bare(module).named_parameters(recurse=False))
            place = next(module.parameters(), next(self.model.parameters()))  # packed weights may be buffers
            kept = is_split(_bare(module))
            if path in adapter.saved:
                tensors = adapter.saved[path]
                saved[path] = {name: _beside(tensor, own[name], kept) for name, tensor in tensors.items()}
            if (part := adapter.low_rank.get(path)) is not None:
                low_rank[path] = _moved(part, place)
            if (replaced := adapter.rows.get(path)) is not None:
                rows[path] = replace(replaced, values=_beside(replaced.values, place, kept))
            if (updates := adapter.parameters.get(path)) is not None:
                pairs = tuple((_beside(a, place, kept), _beside(b, place, kept)) for a, b in updates.pairs)
                own_parameters[path] = replace(updates, pairs=pairs)
        return replace(adapter, low_rank=low_rank, saved=saved, rows=rows, parameters=own_parameters)

    def _install(self, name: str, path: str, adapter: LoraAdapter) -> None:
        module = self._wrapped(path)
        inner, parts = module.inner, list[Part]()
        if path in adapter.saved:
            parts.append(SavedModule(inner, adapter.saved[path], adapter.saved_share))
        if (part := adapter.low_rank.get(path)) is not None:
            parts.append(LowRank(part, inner))
        if (rows := adapter.rows.get(path)) is not None:
            parts.append(TokenRowsPart(torch.tensor(rows.ids, device=rows.values.device), rows.values, inner))
        if (updates := adapter.parameters.get(path)) is not None:
            names = parameters.targeted(path, inner, adapter.targets)
            parts.append(ParametersPart(updates, path, inner, names))
        module.parts[name] = parts

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

    Parts on what a text does not reach, an image's encoder for one, are left out and no fact: a prompt of text cannot
    show them.
    Nothing is refused here: an engine would leave out what does not fit without a warning, and that is the fault to
    detect.
    """
    unread = unread_by_text(model)
    modules = {path: module for path, module in _own_modules(model).items() if not path.startswith(unread)}
    facts = list(adapter.problems)
    adapter = _without(adapter, unread)
    head = _output_layer(model, modules)
    adapter = replace(adapter, rows=_with_tied(adapter.rows, head, modules))
    kept_out = head if adapter.targets.all_linear else ""
    if kept_out in adapter.low_rank:
        facts.append(f"{kept_out} is the output layer, which {ALL_LINEAR} leaves out")
        others = {path: part for path, part in adapter.low_rank.items() if path != kept_out}
        adapter = replace(adapter, low_rank=others)
    wanted = sorted(adapter.modules)
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
    linear = [path for path, module in modules.items() if linear_shape(module) and path != kept_out]
    targeted = sorted(path for path in linear if adapter.targets.takes(path))
    if without := [path for path in targeted if path not in adapter.low_rank]:
        facts.append(count_with_examples(f"of {len(targeted)} targeted modules have no part in the files", without))
    owners = [path for path, module in modules.items() if parameters.targeted(path, module, adapter.targets)]
    if without := [path for path in owners if path not in adapter.parameters]:
        facts.append(
            count_with_examples(f"of {len(owners)} modules with targeted parameters have no part in the files", without)
        )
    return AppliedAdapter(adapter, fits, tuple(facts))


def unread_by_text(model: nn.Module) -> tuple[str, ...]:
    """Beginnings of names of the modules for other than text, beside the text model of a multimodal wrapper."""
    config: Any = getattr(model, "config", None)
    if config is None or config.get_text_config() is config:
        return ()
    prefix = f"{body_of(model)}."
    embeddings: Any = model.get_input_embeddings()  # type: ignore[operator]
    bare = _bare(embeddings)
    place = next(name for name, module in model.named_modules() if module is bare)
    text_model = place.removeprefix(prefix).partition(".")[0]
    body: Any = getattr(model, body_of(model))
    return tuple(f"{prefix}{name}." for name, _ in body.named_children() if name != text_model)


def _without(adapter: LoraAdapter, unread: tuple[str, ...]) -> LoraAdapter:
    if not unread:
        return adapter
    return replace(
        adapter,
        low_rank={path: part for path, part in adapter.low_rank.items() if not path.startswith(unread)},
        saved={path: part for path, part in adapter.saved.items() if not path.startswith(unread)},
    )


def _bare(module: nn.Module) -> nn.Module:
    return module.inner if isinstance(module, LoraModule) else module


def _own_modules(model: nn.Module) -> dict[str, nn.Module]:
    """The base's modules under their own names, as if none were wrapped."""
    wrapped = [module for module in model.modules() if isinstance(module, LoraModule)]
    hidden = {id(wrapper) for wrapper in wrapped} | {id(wrapper.inner) for wrapper in wrapped}
    bare = {name: module for name, module in model.named_modules() if id(module) not in hidden}
    return bare | {wrapper.name: wrapper.inner for wrapper in wrapped}


def _output_layer(model: nn.Module, modules: Mapping[str, nn.Module]) -> str:
    """Its name, "" for a model without an output layer."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    plain = None if head is None else _bare(head)
    return next((name for name, module in modules.items() if module is plain), "")


def _with_tied(rows: Mapping[str, TokenRows], head: str, modules: Mapping[str, nn.Module]) -> Mapping[str, TokenRows]:
    """With the same rows of the output layer where it shares its weight with their embedding, as PEFT has it."""
    if head in rows or head not in modules:
        return rows
    shared = [own for path, own in rows.items() if path in modules and modules[path].weight is modules[head].weight]
    return {**rows, head: shared[0]} if shared else rows


def _misfit(adapter: LoraAdapter, path: str, module: nn.Module) -> str:
    """Why this part cannot be put on this module, or "" where it can."""
    if path in adapter.saved and (why := _saved_misfit(adapter.saved[path], module)):
        return why
    if path in adapter.rows and (why := _rows_misfit(adapter.rows[path], module)):
        return why
    if path in adapter.parameters:
        return parameters.misfit(adapter.parameters[path], path, module, adapter.targets)
    if path not in adapter.low_rank:
        return ""
    part = adapter.low_rank[path]
    shape, wanted = (part.b.shape[0], part.a.shape[1]), linear_shape(module)
    if part.on_embedding:
        wanted = (module.embedding_dim, module.num_embeddings) if isinstance(module, nn.Embedding) else None
    if wanted is None:
        return f"is a {type(module).__name__}, not {'an embedding' if part.on_embedding else 'linear'}"
    if shape != wanted or part.a.shape[0] != part.b.shape[1]:
        return f"has {shape[0]} x {shape[1]} where the base has {wanted[0]} x {wanted[1]}"
    for name, vector in (("bias", part.bias), ("magnitude", part.magnitude)):
        if vector is not None and len(vector) != wanted[0]:
            return f"has a {name} of {len(vector)} where the base has {wanted[0]} outputs"
    return ""


def _rows_misfit(rows: TokenRows, module: nn.Module) -> str:
    if not isinstance(module, nn.Embedding | nn.Linear):
        return f"is a {type(module).__name__}, which has no rows of tokens"
    have, width = module.weight.shape
    if rows.values.shape[1] != width or max(rows.ids, default=0) >= have:
        return f"has token {max(rows.ids)} of {rows.values.shape[1]} where the base has {have} of {width}"
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
    """Is every lora_B zero, and nothing else changed? A magnitude or a bias may change an answer without it."""
    return not any(_has_effect(adapter, path) for path in fits)


def _has_effect(adapter: LoraAdapter, path: str) -> bool:
    part, updates = adapter.low_rank.get(path), adapter.parameters.get(path)
    if path in adapter.saved or path in adapter.rows:
        return True
    seconds = [b for _, b in updates.pairs] if updates else [] if part is None else [part.b]
    extra = part is not None and (part.magnitude is not None or (part.bias is not None and bool(part.bias.any())))
    return extra or any(bool(b.count_nonzero()) for b in seconds)


def _moved(part: LowRankUpdate, place: torch.Tensor) -> LowRankUpdate:
    """On the device of ``place``, in the widest of its type and the part's own."""
    kind = place.dtype
    for tensor in part.tensors:
        kind = torch.promote_types(kind, tensor.dtype)
    a, b = (half.to(place.device, kind) for half in (part.a, part.b))
    bias, magnitude = (None if own is None else own.to(place.device, kind) for own in (part.bias, part.magnitude))
    return replace(part, a=a, b=b, bias=bias, magnitude=magnitude)


def _beside(tensor: torch.Tensor, own: torch.Tensor, is_kept: bool) -> torch.Tensor:
    """On the device of the base's own tensor and in its type. is_kept: in float32 where the adapter is stored in it and
    the base in fewer bits, beside which everything is computed in float32"""
    return tensor.to(own.device, torch.promote_types(own.dtype, tensor.dtype) if is_kept else own.dtype)


def row_groups(targets: Iterable[tuple[str | None, float]], device: torch.device) -> tuple[RowGroup, ...]:
    """Groups for rows in this order; rows of one adapter must be adjacent, the base's rows (None) get no group."""
    rows = list(targets)
    groups, start = [], 0
    while start < len(rows):
        name = rows[start][0]
        stop = next((i for i in range(start, len(rows)) if rows[i][0] != name), len(rows))
        if name is not None:
            multiples = tuple(float(scale) for _, scale in rows[start:stop])
            alike = len(set(multiples)) == 1
            scales = None if alike else torch.tensor(multiples, dtype=torch.float32).to(device, non_blocking=True)
            groups.append(RowGroup(name, start, stop, scales, multiples))
        start = stop
    return tuple(groups)
