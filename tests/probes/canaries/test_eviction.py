"""Which adapters are asked so that another one is loaded again, and where none are."""

from __future__ import annotations

import pytest

from probes.canaries.eviction import MOST_OTHERS, evicted_in_words, others_of
from probes.serving.engine import ServedModel


def listed(*names: str) -> list[ServedModel]:
    return [ServedModel("base"), *(ServedModel(name, f"/adapters/{name}", "base") for name in names)]


def test_as_many_others_are_asked_as_the_engine_holds() -> None:
    assert others_of("b", listed("a", "b", "c", "d"), "base", 2) == ("a", "c")
    assert others_of("b", listed("a", "b", "c", "c"), "base", 2) == ("a", "c"), "a name twice is one adapter"


@pytest.mark.parametrize("slots", [None, 0, 3, MOST_OTHERS + 1])
def test_none_where_it_holds_all_or_does_not_say(slots: int | None) -> None:
    assert others_of("b", listed("a", "b", "c"), "base", slots) == ()
    many = listed(*(f"adapter-{i}" for i in range(40)))
    assert others_of("adapter-0", many, "base", MOST_OTHERS + 1) == ()


def test_the_base_and_a_model_that_is_no_adapter_make_no_room() -> None:
    assert others_of("b", [*listed("b"), ServedModel("another base")], "base", 1) == ()


def test_it_is_said_in_words() -> None:
    assert evicted_in_words(1).startswith("1 other adapter was asked")
    assert evicted_in_words(2).startswith("2 other adapters were asked")
