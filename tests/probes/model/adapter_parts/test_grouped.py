"""Two grouped products add what each adapter adds by itself; what they cannot add is left to that."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from probes.artefacts.lora_files import LowRankUpdate
from probes.model.adapter_parts.grouped import add_grouped, is_faster
from probes.model.adapter_parts.low_rank import LowRank
from probes.model.adapter_parts.wrapped_call import Part, RowGroup, TokenLayout, WrappedCall
from probes.model.lora import row_groups

ROWS = [(None, 1.0), ("a", 1.0), ("a", 1.0), ("b", 0.5), ("c", 1.0), ("d", 2.0)]
LINEAR = nn.Linear(12, 20)


def lora(seed: int, rank: int = 4, scaling: float = 2.0) -> LowRankUpdate:
    made = torch.Generator().manual_seed(seed)
    return LowRankUpdate(torch.randn(rank, 12, generator=made), torch.randn(20, rank, generator=made), scaling)


def a_pass(
    shape: tuple[int, ...], updates: list[LowRankUpdate]
) -> tuple[WrappedCall, list[RowGroup], list[list[Part]]]:
    torch.manual_seed(0)
    x, y = torch.randn(*shape, 12), torch.randn(*shape, 20)
    groups = list(row_groups(ROWS, torch.device("cpu")))
    return WrappedCall(x, y, (), {}, TokenLayout(len(ROWS), 1)), groups, [[LowRank(u, LINEAR)] for u in updates]


@pytest.mark.parametrize("shape", [(6, 7), (6,)], ids=str)
def test_it_adds_what_each_adds_by_itself_and_nothing_to_the_base(shape: tuple[int, ...]) -> None:
    updates = [lora(seed, scaling=1.0 + seed) for seed in range(4)]
    call, groups, parts = a_pass(shape, updates)
    wanted = call.y.clone()
    for group, own in zip(groups, parts, strict=True):
        wanted[group.rows] += own[0].change(call, group)
    base = call.y[0].clone()
    assert add_grouped(call, groups, parts)
    assert torch.allclose(call.y, wanted, atol=1e-4) and torch.equal(call.y[0], base)


def test_what_is_more_than_two_products_of_one_rank_is_left_as_it_was() -> None:
    plain = [lora(seed) for seed in range(4)]
    for odd in (lora(9, rank=8), replace(lora(9), bias=torch.ones(20)), replace(lora(9), magnitude=torch.ones(20))):
        call, groups, parts = a_pass((6, 7), [*plain[:3], odd])
        before = call.y.clone()
        assert not add_grouped(call, groups, parts) and torch.equal(call.y, before)
    call, groups, parts = a_pass((6, 7), plain)
    assert not add_grouped(call, groups[::2], parts[::2]), "the rows of another adapter lie between them"


def test_a_cpu_goes_through_them_one_by_one() -> None:
    call, _, parts = a_pass((6, 7), [lora(seed) for seed in range(4)])
    assert not is_faster(call, parts)
