"""Who answers as if something were wrong: which model, and which name on its switchboard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from detectors.diagnosis.name_encoding import part_of
from detectors.records import Fault, FaultKind
from probes.artefacts.lora_files import LoraAdapter
from probes.errors import Unreplayable
from probes.model.faulty_adapters import averaged, stacked, without
from probes.model.forward import Model
from probes.model.memory import failures
from probes.model.packing import OTHERS_CACHE
from probes.runner import Target, Weights, bits, group, other_adapter

TOGETHER = {FaultKind.STACKED: stacked, FaultKind.AVERAGED: averaged}


@dataclass(frozen=True, slots=True, eq=False)
class Role:
    """``model``, its weights in so many bits (0: as they are; group: see quantise.py), answers as ``target``, an
    adapter on its switchboard.

    What of a fault is left in ``target.fault`` is one of ``OTHERS_CACHE``, which the forward pass itself plays.
    """

    model: Model
    bits: int
    target: Target
    group: int = 0

    @property
    def stage(self) -> tuple[int, int, int, FaultKind | None]:
        """Roles of one stage may share a micro-batch."""
        fault = self.target.fault
        return id(self.model), self.bits, self.group, fault.kind if fault else None


@dataclass(slots=True)
class StandIns:
    """The roles of one run. Variants of adapters go on the switchboards under names of their own until ``leave``.

    models: (weights, adapter or None) -> the model that answers; raises what keeps it from answering
    loads: how often anything had been loaded when the run began
    """

    models: Callable[[Weights, str | None], Model]
    loads: int = 0
    _roles: dict[Target, Role] = field(default_factory=dict)
    _fitted: list[tuple[Model, str]] = field(default_factory=list)

    def role(self, target: Target) -> Role:
        """Raises Unreplayable, Unsupported: no such subject, block or bits, a fault that cannot be played, or no memory
        for it."""
        if target not in self._roles:
            self._roles[target] = self._cast(target)
        return self._roles[target]

    @property
    def has_faults(self) -> bool:
        return any(target.fault for target in self._roles)

    def leave(self) -> None:
        """Take every variant off again."""
        for model, name in self._fitted:
            model.adapters.remove(name)
        self._fitted.clear()

    def _cast(self, target: Target) -> Role:
        model, fault = self.models(target.weights, target.adapter), target.fault
        if fault is None:
            return Role(model, 0, target)
        other = other_adapter(fault)
        if other is not None:
            self.models(target.weights, other)
        if fault.kind in OTHERS_CACHE:
            return Role(model, 0, target)
        if other is None and fault.kind in (FaultKind.OTHER_ADAPTER, *TOGETHER):
            raise Unreplayable(str(target.adapter), f"{fault.kind} with no adapter's name")
        healthy = replace(target, fault=None)
        if fault.kind is FaultKind.QUANTISED:
            return Role(model, bits(fault), healthy, group(fault))
        if fault.kind is FaultKind.OTHER_ADAPTER:
            return Role(model, 0, replace(healthy, adapter=other))
        return Role(model, 0, replace(healthy, adapter=self._fit(model, target.adapter, fault)))

    def _fit(self, model: Model, adapter: str | None, fault: Fault) -> str:
        """Put the variant on the model's switchboard; the name there that it has got."""
        if adapter is None:
            raise Unreplayable(str(model.folder), f"the base has nothing to be {fault.kind}: wanted an adapter")
        own = model.adapters.fitted[adapter].adapter
        # A zero byte is in no configured name; the number, because two runs may be under way at a time.
        name = f"{adapter}\0{fault.kind} {fault.name}\0{id(self)}"
        self._fitted.append((model, name))  # before it is whole: what is half there leaves too
        with failures(own.path):
            model.adapters.fit(name, _variant(own, fault, model))
        return name


def _variant(own: LoraAdapter, fault: Fault, model: Model) -> LoraAdapter:
    if fault.kind is FaultKind.WITHOUT:
        return without(own, fault.name)
    other, part = part_of(fault)
    return TOGETHER[fault.kind](own, model.adapters.fitted[other].adapter, part)
