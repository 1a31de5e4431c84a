"""Which adapters an engine is asked for so that it has to load another one again before its next answer. Pure.

An engine holds so many adapters where it computes; one more makes it put the one aside that was used least recently. A
load that goes wrong then shows to the users who come next. Canaries of an adapter that is in use all day never meet it.
"""

from __future__ import annotations

from collections.abc import Sequence

from probes.serving.engine import ServedModel

# Others that are asked at most: of an engine that holds more, each turn would take a minute's budget and more.
MOST_OTHERS = 16


def others_of(adapter: str, models: Sequence[ServedModel], base: str, slots: int | None) -> tuple[str, ...]:
    """As many other adapters of the engine's list as it holds at once, in the list's order.

    () where it holds all that it lists, more than MOST_OTHERS, or does not say: slots None
    """
    names = dict.fromkeys(model.name for model in models if model.parent and model.name not in (adapter, base))
    if slots is None or not 1 <= slots <= min(MOST_OTHERS, len(names)):
        return ()
    return tuple(names)[:slots]


def evicted_in_words(others: int) -> str:
    """A fact of the round."""
    adapters = "1 other adapter was" if others == 1 else f"{others} other adapters were"
    return f"{adapters} asked just before, as many as the engine holds at once, so that it had to load this one again"
