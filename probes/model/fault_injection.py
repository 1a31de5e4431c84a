"""Fault injection: which model, and which adapter on it, answers as if a given fault were present.

A fault is one of four things: a variant of an adapter, which is applied for one run (faulty_adapters.py); another
adapter; a quantised copy of the base; or a key-value cache of the prompt that was computed by another adapter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from detectors.diagnosis.name_encoding import part_of
from detectors.records import Fault, FaultKind
from probes.artefacts.lora_files import LoraAdapter
from probes.errors import Unreplayable
from probes.model.faulty_adapters import averaged, stacked, taken_away, without
from probes.model.forward import Model
from probes.model.free_memory import memory_errors
from probes.model.packing import FOREIGN_CACHE
from probes.runner import Target, Weights, bits, group, other_adapter

FindsModel = Callable[[Weights, str | None], tuple[Model, str | None]]
COMBINED = {FaultKind.STACKED: stacked, FaultKind.AVERAGED: averaged, FaultKind.TAKEN_AWAY: taken_away}


@dataclass(frozen=True, slots=True, eq=False)
class ResolvedTarget:
    """``target`` with its fault turned into what plays it: ``model`` in so many bits (0: its own precision; group: see
    quantise.py), under the adapter name ``target.adapter``.

    A fault that is left in ``target.fault`` is one of ``FOREIGN_CACHE``, which the forward pass itself plays.
    """

    model: Model
    bits: int
    target: Target
    group: int = 0

    @property
    def batch_key(self) -> tuple[int, int, int, FaultKind | None]:
        """Targets of one key may share a micro-batch."""
        fault = self.target.fault
        return id(self.model), self.bits, self.group, fault.kind if fault else None


@dataclass(slots=True)
class FaultInjection:
    """The faults of one run. Variants of adapters are applied to the models under names of their own, until
    ``remove_all``.

    find: (weights, adapter or None) -> the model that answers, and the name under which the adapter answers on it;
    raises what keeps it from answering
    loads: ``Residency.loads`` when the run began
    """

    find: FindsModel
    loads: int = 0
    _resolved: dict[Target, ResolvedTarget] = field(default_factory=dict)
    _variants: list[tuple[Model, str]] = field(default_factory=list)

    def resolve(self, target: Target) -> ResolvedTarget:
        """Raises Unreplayable, Unsupported: no such adapter, block or bits, a fault that cannot be played, or no memory
        for it."""
        if target not in self._resolved:
            self._resolved[target] = self._resolve(target)
        return self._resolved[target]

    @property
    def has_faults(self) -> bool:
        return any(target.fault for target in self._resolved)

    def remove_all(self) -> None:
        """Take every variant off the models again."""
        for model, name in self._variants:
            model.adapters.remove(name)
        self._variants.clear()

    def _resolve(self, target: Target) -> ResolvedTarget:
        model, name = self.find(target.weights, target.adapter)
        fault, healthy = target.fault, replace(target, adapter=name, fault=None)
        if fault is None:
            return ResolvedTarget(model, 0, healthy)
        other = other_adapter(fault)
        if other is not None:
            other = self.find(target.weights, other)[1]
        if fault.kind in FOREIGN_CACHE:
            return ResolvedTarget(model, 0, replace(healthy, fault=replace(fault, name=other or "")))
        if other is None and fault.kind in (FaultKind.OTHER_ADAPTER, *COMBINED):
            raise Unreplayable(str(target.adapter), f"{fault.kind} with no adapter's name")
        if fault.kind is FaultKind.QUANTISED:
            return ResolvedTarget(model, bits(fault), healthy, group(fault))
        if fault.kind is FaultKind.OTHER_ADAPTER:
            return ResolvedTarget(model, 0, replace(healthy, adapter=other))
        return ResolvedTarget(model, 0, replace(healthy, adapter=self._apply_variant(model, name, other, fault)))

    def _apply_variant(self, model: Model, adapter: str | None, other: str | None, fault: Fault) -> str:
        """Apply the variant to the model. Gives the name under which it answers.

        adapter, other: names under which the adapter, and the second one of a combination, answer on the model
        """
        if adapter is None:
            raise Unreplayable(str(model.folder), f"the base cannot be {fault.kind}: wanted an adapter")
        own = model.adapters.applied[adapter].adapter
        # A zero byte is in no configured name; the id, because two runs may be under way at a time.
        name = f"{adapter}\0{fault.kind} {fault.name}\0{id(self)}"
        self._variants.append((model, name))  # before it is applied: what is applied in part is removed too
        with memory_errors(own.path):
            model.adapters.apply(name, _variant(own, fault, model.adapters.applied[other].adapter if other else None))
        return name


def _variant(own: LoraAdapter, fault: Fault, other: LoraAdapter | None) -> LoraAdapter:
    """other: the second adapter of a combination, None for a block that is left out"""
    if other is None:
        return without(own, fault.name)
    return COMBINED[fault.kind](own, other, part_of(fault)[1])
