"""What a composition is: what is refused, and what its hash depends on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from probes.composition.recipe import METHODS, Member, Recipe
from probes.errors import Refused

TWO = (Member("tone", 0.5), Member("form", 0.5))
HASHES = ("sha256:a", "sha256:b")


@pytest.mark.parametrize(
    ("changed", "about"),
    [
        ({"members": (Member("tone"),)}, "two adapters or more"),
        ({"members": (Member("tone"), Member("tone"))}, "each once"),
        ({"members": (Member("tone", 0.0), Member("form"))}, "weight of tone"),
        ({"members": (Member("tone", float("nan")), Member("form"))}, "weight of tone"),
        ({"method": "average"}, "one of: stacked, linear, cat"),
        ({"method": "ties"}, "density of ties"),
        ({"method": "ties", "density": 1.5}, r"a share in \(0, 1\]"),
        ({"method": "linear", "density": 0.5}, "prunes nothing"),
        ({"method": "linear", "svd_rank": 4}, "methods that end in svd"),
        ({"method": "svd", "svd_rank": 0}, "1 or more"),
        ({"method": "svd", "svd_clamp": 2.0}, "quantile"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(changed: dict[str, Any], about: str) -> None:
    with pytest.raises(Refused, match=about):
        Recipe(**{"members": TWO} | changed)


def test_the_hash_changes_with_whatever_changes_the_result() -> None:
    recipe = Recipe(TWO, "ties", density=0.5)
    same = recipe.identity(HASHES)
    other = {
        replace(recipe, members=(Member("tone", 0.6), TWO[1])).identity(HASHES),
        replace(recipe, density=0.6).identity(HASHES),
        replace(recipe, majority_sign_method="frequency").identity(HASHES),
        replace(recipe, method="ties_svd").identity(HASHES),
        replace(recipe, method="ties_svd", svd_rank=4).identity(HASHES),
        recipe.identity(("sha256:a", "sha256:c")),
    }
    assert len(other | {same}) == 7


def test_names_order_and_unused_parameters_are_no_part_of_it() -> None:
    recipe = Recipe(TWO, "linear")
    renamed = Recipe((Member("b", 0.5), Member("a", 0.5)), "linear", seed=3, majority_sign_method="frequency")
    assert recipe.identity(HASHES) == renamed.identity(HASHES[::-1])
    drawn = Recipe(TWO, "dare_linear", density=0.5)
    assert drawn.identity(HASHES) != replace(drawn, seed=1).identity(HASHES)
    assert drawn.identity(HASHES) != replace(drawn, members=TWO[::-1]).identity(HASHES[::-1])


def test_every_method_belongs_to_a_kind() -> None:
    recipes = [Recipe(TWO, method, 0.5 if method.startswith(("ties", "dare", "mag")) else None) for method in METHODS]
    assert {recipe.method for recipe in recipes if recipe.elects_sign} == {
        "ties", "ties_svd", "dare_ties", "dare_ties_svd"
    }  # fmt: skip
    assert sum(recipe.draws for recipe in recipes) == 4 and sum(recipe.factorises for recipe in recipes) == 5
