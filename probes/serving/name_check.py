"""Does each name that an engine is asked by mean one model? What is wrong with its names, in words, before any round.

An adapter may be registered under the base's name, and is looked up first; an engine may answer a name that it does not
know, and what answers then is the base. Neither is an error to the engine. Whose answers come under the base's name is
measured besides (detectors/canaries/base_answerer.py): the list alone may lie.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from detectors.canaries.base_answerer import BaseAnswerer
from probes.errors import EngineAway, Unreplayable
from probes.serving.engine import Engine, Request, ServedModel


def names_in_words(engine: Engine, base: str, adapters: Sequence[str]) -> dict[str | None, tuple[str, ...]]:
    """None for the base, or an adapter -> what is wrong with its name in the engine's list; nothing for right ones.

    Raises EngineAway and Unreplayable as the engine does.
    """
    models = engine.models()
    times = Counter(model.name for model in models)
    wrong: dict[str | None, tuple[str, ...]] = {}
    for subject, name in ((None, base), *((adapter, adapter) for adapter in adapters)):
        words = [f"the engine lists {times[name]} models named {name}"] if times[name] > 1 else []
        words += base_in_words(models, base) if subject is None else ()
        if words:
            wrong[subject] = tuple(words)
    return wrong


def base_in_words(models: Sequence[ServedModel], base: str) -> tuple[str, ...]:
    """A finding where the engine's list has the base's name for an adapter; nothing where it does not say so.

    models: the engine's list; base: the base's name in it
    """
    parents = sorted({model.parent for model in models if model.name == base and model.parent})
    return tuple(f"the engine lists {base}, the base's name, as an adapter of {parent}" for parent in parents)


def stranger_in_words(engine: Engine, stranger: str, prompt: tuple[int, ...]) -> tuple[str, ...]:
    """A finding where the engine answers a name that it does not list; nothing where it refuses, as it must.

    stranger: a random name; prompt: token ids of any text. Raises EngineAway where it refuses everything.
    """
    try:
        engine.generate(Request(stranger, prompt), 1)
    except EngineAway:
        raise
    except Unreplayable:
        return ()
    return (
        f"the engine answers the unknown name {stranger}: a request for an adapter that is not loaded, or whose name "
        "is misspelt, gets the base's answer and no error",
    )


def answerer_in_words(base: str, answerer: BaseAnswerer) -> str:
    """Why no gap can be computed while an adapter answers under the base's name."""
    return (
        f"under the base's name {base} the adapter {answerer.adapter} answers, on {answerer.canaries} of "
        f"{answerer.of} canaries: there is no base to measure against; give the base a name that no adapter has"
    )
