"""Which models of an engine's list are bases, which are adapters of each, and does each name mean one model?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from probes.errors import Refused
from probes.serving.engine import ServedModel
from probes.serving.name_check import base_in_words


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


def names_in_words(
    models: Sequence[ServedModel], base: str, adapters: Sequence[str]
) -> dict[str | None, tuple[str, ...]]:
    """None for the base, or an adapter -> what is wrong with its name in the engine's list; nothing for right ones."""
    times = Counter(model.name for model in models)
    wrong: dict[str | None, tuple[str, ...]] = {}
    for subject, name in ((None, base), *((adapter, adapter) for adapter in adapters)):
        twice = (f"the engine lists {times[name]} models named {name}",) if times[name] > 1 else ()
        if words := (*twice, *(base_in_words(models, base) if subject is None else ())):
            wrong[subject] = words
    return wrong


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
