"""Merging rules, tensor by tensor, against PEFT's own functions."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft.utils import merge_utils

from probes.composition.arithmetic import combined
from probes.composition.recipe import Member, Method, Recipe

WEIGHTS = (0.7, -0.4, 1.2)
MEMBERS = tuple(Member(name, weight) for name, weight in zip("abc", WEIGHTS, strict=True))
PEFT: dict[Method, Callable[..., torch.Tensor]] = {
    "magnitude_prune": merge_utils.magnitude_prune,
    "ties": merge_utils.ties,
    "dare_linear": merge_utils.dare_linear,
    "dare_ties": merge_utils.dare_ties,
}


def tensors() -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    return [torch.randn(12, 7, generator=draw) for _ in MEMBERS]


@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("sign", ["total", "frequency"])
@pytest.mark.parametrize("method", PEFT)
def test_each_rule_is_that_of_peft(method: Method, sign: Any, density: float) -> None:
    recipe = Recipe(MEMBERS, method, density, sign)
    extra = {"majority_sign_method": sign} if recipe.elects_sign else {}
    torch.manual_seed(11)  # from which PEFT draws
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a density of 1 prunes nothing
        wanted = PEFT[method](tensors(), torch.tensor(WEIGHTS), density, **extra)
    result = combined(tensors(), WEIGHTS, recipe, torch.Generator().manual_seed(11))
    assert torch.equal(result, wanted)


def test_without_a_rule_it_is_the_weighted_sum() -> None:
    wanted = merge_utils.task_arithmetic(tensors(), torch.tensor(WEIGHTS))
    assert torch.equal(combined(tensors(), WEIGHTS, Recipe(MEMBERS, "linear"), torch.Generator()), wanted)


def test_what_cancels_is_left_to_the_members_with_the_elected_sign() -> None:
    pair = [torch.tensor([3.0, -1.0, 0.0]), torch.tensor([-1.0, -2.0, 0.0])]
    recipe = Recipe((Member("a"), Member("b")), "ties", 1.0)
    assert combined(pair, (1.0, 1.0), recipe, torch.Generator()).tolist() == [3.0, -1.5, 0.0]
