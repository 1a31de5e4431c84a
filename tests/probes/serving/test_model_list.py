"""Bases and adapters as engines list them."""

from __future__ import annotations

import pytest

from probes.errors import Refused
from probes.serving.engine import ServedModel
from probes.serving.model_list import adapters_by_base

BASE = ServedModel("m", "/models/m")
A, B = ServedModel("a", "/a", "m"), ServedModel("b", "/b", "m")


def test_parents_are_bases_in_the_engines_order() -> None:
    other, c = ServedModel("n", "/models/n"), ServedModel("c", "/c", "n")
    assert adapters_by_base([BASE, other, B, c, A]) == {"m": ("b", "a"), "n": ("c",)}


def test_a_parent_may_be_named_by_the_path_that_it_was_loaded_from() -> None:
    assert adapters_by_base([BASE, ServedModel("a", "/a", "/models/m")]) == {"m": ("a",)}


def test_a_name_that_is_listed_twice_and_an_adapter_with_the_bases_name_are_no_further_adapters() -> None:
    assert adapters_by_base([BASE, A, A, ServedModel("m", "/c", "m")]) == {"m": ("a",)}


def test_where_the_list_names_no_parent_the_base_has_to_be_named() -> None:
    models = [ServedModel("a"), ServedModel("m"), ServedModel("b")]
    with pytest.raises(Refused, match="--base NAME"):
        adapters_by_base(models)
    assert adapters_by_base(models, "m") == {"m": ("a", "b")}
    with pytest.raises(Refused, match="one that the engine lists: a, m, b"):
        adapters_by_base(models, "x")
    assert adapters_by_base([BASE, A, ServedModel("n"), ServedModel("c", "", "n")], "m") == {"m": ("a", "n")}


@pytest.mark.parametrize("models", [[], [BASE]])
def test_without_an_adapter_it_is_said_how_one_is_loaded(models: list[ServedModel]) -> None:
    with pytest.raises(Refused, match="--lora-modules"):
        adapters_by_base(models)
