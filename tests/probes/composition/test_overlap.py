"""Inner products and common spaces of updates, against the updates themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from probes.composition.compose import Composed, Factors
from probes.composition.overlap import inner, strengths_in, weight_overlap
from probes.composition.recipe import Member, Recipe


def update(seed: int, modules: tuple[str, ...] = ("q", "v"), rank: int = 3) -> dict[str, Factors]:
    draw = torch.Generator().manual_seed(seed)
    return {name: (torch.randn(rank, 10, generator=draw), torch.randn(8, rank, generator=draw)) for name in modules}


def whole(own: dict[str, Factors]) -> np.ndarray:
    """As one vector over both modules."""
    flat = [(own[name][1] @ own[name][0]).flatten() if name in own else torch.zeros(80) for name in ("q", "v")]
    return torch.cat(flat).double().numpy()


def test_inner_products_are_those_of_the_products() -> None:
    first, second = update(1), update(2, ("v",), rank=5)
    assert inner(first, second) == pytest.approx(whole(first) @ whole(second), rel=1e-5)
    overlap = weight_overlap([first, second])
    assert overlap.cosine(0, 0) == pytest.approx(1.0)
    assert overlap.ratio(0, 1) == pytest.approx(np.linalg.norm(whole(second)) / np.linalg.norm(whole(first)), rel=1e-5)


def test_common_spaces_are_all_of_its_own_and_none_of_what_is_at_right_angles() -> None:
    first = update(1, ("q",))
    outputs = torch.linalg.qr(torch.cat([first["q"][1], torch.randn(8, 3)], dim=1))[0][:, 3:]
    inputs = torch.linalg.qr(torch.cat([first["q"][0].T, torch.randn(10, 3)], dim=1))[0][:, 3:]
    other = {"q": (inputs.T.contiguous(), outputs)}
    overlap = weight_overlap([first, other, {"q": (first["q"][0] * 2, outputs)}])
    assert overlap.inputs[0, 1] == pytest.approx(0.0, abs=1e-6) and overlap.outputs[0, 1] == pytest.approx(
        0.0, abs=1e-6
    )
    assert overlap.inputs[0, 2] == pytest.approx(1.0) and overlap.outputs[0, 0] == pytest.approx(1.0)


def test_strengths_are_read_from_what_was_composed() -> None:
    members = [update(1), update(2), update(3, ("q",))]
    products = weight_overlap(members).products
    summed = {
        name: (
            torch.cat([own[name][0] for own in members if name in own]),
            torch.cat(
                [w * own[name][1] for w, own in zip((0.7, -0.4, 1.5), members, strict=True) if name in own], dim=1
            ),
        )
        for name in ("q", "v")
    }
    recipe = Recipe((Member("a"), Member("b")), "cat")
    strengths, rest = strengths_in(Composed(recipe, "", 9, summed), members, products)
    assert strengths == pytest.approx([0.7, -0.4, 1.5], abs=1e-4) and rest.max() < 0.01
    foreign = Composed(recipe, "", 3, update(9))
    _, rest = strengths_in(foreign, members, products)
    assert rest.min() > 0.5, "what no member explains"


def test_without_answers_effects_are_those_of_the_weights() -> None:
    members = [update(1), update(2)]
    effects = weight_overlap(members).effects(1)
    assert effects.by_weights and effects.own == 1 and effects.along[1] == pytest.approx(1.0)
    assert effects.size[0] == pytest.approx(
        np.linalg.norm(whole(members[0])) / np.linalg.norm(whole(members[1])), rel=1e-5
    )
