"""The cosine of two adapters from their factors is that of the whole matrices."""

from __future__ import annotations

import pytest
import torch

from probes.artefacts.lora_files import LoraAdapter, LowRankUpdate
from probes.model.likeness import likeness


def adapter(seed: int, modules: tuple[str, ...] = ("q", "v"), rank: int = 3, scaling: float = 2.0) -> LoraAdapter:
    random = torch.Generator().manual_seed(seed)

    def update() -> LowRankUpdate:
        return LowRankUpdate(
            torch.randn(rank, 7, generator=random), torch.randn(5, rank, generator=random).to(torch.float64), scaling
        )

    return LoraAdapter("nowhere", {}, rank, 1.0, {module: update() for module in modules}, {})


def whole(read: LoraAdapter) -> torch.Tensor:
    """The change of modules q, v and k, one after the other, (3 * 35,)."""
    changes = []
    for module in "qvk":
        part = read.low_rank.get(module)
        change = part.scaling * part.b.float() @ part.a.float() if part else torch.zeros(5, 7)
        changes.append(change.flatten())
    return torch.cat(changes)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (adapter(1), adapter(2, rank=4, scaling=0.5)),
        (adapter(1), adapter(3, modules=("v", "k"))),
        (adapter(1), adapter(1, scaling=7.0)),
        (adapter(1), adapter(1, scaling=-1.0)),
    ],
)
def test_it_is_the_cosine_of_the_whole_changes(first: LoraAdapter, second: LoraAdapter) -> None:
    wanted = torch.nn.functional.cosine_similarity(whole(first), whole(second), dim=0)
    assert likeness(first, second) == pytest.approx(float(wanted), abs=1e-5)
    assert likeness(second, first) == pytest.approx(float(wanted), abs=1e-5)


def test_adapters_without_a_module_in_common_are_not_alike() -> None:
    assert likeness(adapter(1), adapter(1, modules=("k",))) == 0.0
    assert likeness(adapter(1), adapter(1, modules=())) == 0.0


def test_a_module_of_another_shape_is_none_in_common() -> None:
    other = LowRankUpdate(torch.ones(2, 9), torch.ones(5, 2), 1.0)
    assert likeness(adapter(1, modules=("q",)), LoraAdapter("nowhere", {}, 2, 1.0, {"q": other}, {})) == 0.0
