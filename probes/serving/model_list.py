"""Which models of an engine's list are bases, and which are adapters of each?"""

from __future__ import annotations

from collections.abc import Sequence

from probes.errors import Refused
from probes.serving.engine import ServedModel


def adapters_by_base(models: Sequence[ServedModel], base: str = "") -> dict[str, tuple[str, ...]]:
    """Name of each base -> names of its adapters, each once, in the engine's order.

    base: its name, where the list does not say what is an adapter of what: all others are then adapters of it
    Raises Refused, with what to do, where the list holds no adapter, and where it does not tell which is the base.
    """
    names = dict.fromkeys(model.name for model in models)
    if base:
        if base not in names:
            raise Refused("base", repr(base), f"one that the engine lists: {', '.join(names)}")
        of_others = {model.name for model in models if model.parent and _name_of(model.parent, models) != base}
        adapters = tuple(name for name in names if name != base and name not in of_others)
        return {base: _some(adapters, names)}
    parents = {model.name: _name_of(model.parent, models) for model in models if model.parent}
    if not parents and len(names) > 1:
        raise Refused("models", ", ".join(names), "--base NAME: the list does not say which of them is the base")
    bases = dict.fromkeys(parents.values())
    _some(tuple(parents), names)
    return {own: tuple(name for name, parent in parents.items() if parent == own and name != own) for own in bases}


def _some(adapters: tuple[str, ...], names: dict[str, None]) -> tuple[str, ...]:
    if adapters:
        return adapters
    wanted = "an adapter beside its base: vLLM lists those of --lora-modules NAME=FOLDER"
    raise Refused("models", ", ".join(names) or "an empty list", wanted)


def _name_of(parent: str, models: Sequence[ServedModel]) -> str:
    """Engines name a parent by its name in the list, or by the path it was loaded from."""
    if any(model.name == parent for model in models):
        return parent
    return next((model.name for model in models if model.root == parent and not model.parent), parent)
