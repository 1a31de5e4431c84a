"""Updates of parameters: by PEFT's layouts, for the rows that they are meant for, at any multiple."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from probes.artefacts.identity import NEWEST
from probes.artefacts.lora_files import LoraAdapter, LoraScaling, ParameterUpdates
from probes.artefacts.target_modules import TargetModules
from probes.model.lora import AppliedAdapters, match_modules, row_groups

EXPERTS, WIDTH, INNER, RANK = 3, 4, 6, 2
SCALING = 2.0


class Experts(nn.Module):
    """Every token through one expert, and a bend between its two matrices."""

    def __init__(self, is_transposed: bool) -> None:
        super().__init__()
        self.is_transposed = is_transposed
        up, down = torch.randn(EXPERTS, INNER, WIDTH), torch.randn(EXPERTS, WIDTH, INNER)
        self.up = nn.Parameter(up.transpose(1, 2).contiguous() if is_transposed else up)
        self.down = nn.Parameter(down.transpose(1, 2).contiguous() if is_transposed else down)

    def forward(self, x: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        up, down = (w.transpose(1, 2) if self.is_transposed else w for w in (self.up, self.down))
        return torch.stack([down[e] @ torch.relu(up[e] @ row) for row, e in zip(x, chosen, strict=True)])


class Wrapper(nn.Module):
    def __init__(self, is_transposed: bool) -> None:
        super().__init__()
        self.experts = Experts(is_transposed)

    def forward(self, *given: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.experts(*given)
        return answer


def updates(*shapes: tuple[int, int]) -> ParameterUpdates:
    """shapes: outputs and inputs of each parameter"""
    pairs = tuple((torch.randn(EXPERTS * RANK, i), torch.randn(o, RANK * EXPERTS)) for o, i in shapes)
    return ParameterUpdates(pairs, LoraScaling(RANK, SCALING * RANK, {}, {}, False))


def adapter_with(parts: ParameterUpdates, named: Sequence[str]) -> LoraAdapter:
    targets = TargetModules(("none",), parameters=tuple(named))
    return LoraAdapter("a", {NEWEST: ""}, RANK, 1.0, {}, {}, targets=targets, parameters={"experts": parts})


def merged(model: Wrapper, parts: ParameterUpdates, multiple: float) -> Wrapper:
    """With the sums in place, expert by expert and number by number."""
    own = Wrapper(model.experts.is_transposed)
    own.load_state_dict(model.state_dict())
    for parameter, (a, b) in zip((own.experts.up, own.experts.down), parts.pairs, strict=True):
        for e in range(EXPERTS):
            of_expert = b[:, e::EXPERTS] @ a[e * RANK : (e + 1) * RANK]
            added = of_expert.T if own.experts.is_transposed else of_expert
            parameter.data[e] += multiple * SCALING * added
    return own


@pytest.mark.parametrize("is_transposed", [False, True])
@pytest.mark.parametrize("columns", [1, 2])
def test_each_row_gets_the_sum_at_its_own_multiple(is_transposed: bool, columns: int) -> None:
    torch.manual_seed(0)
    model, parts = Wrapper(is_transposed), updates((INNER, WIDTH), (WIDTH, INNER))
    rows = [(None, 1.0), ("a", 1.0), ("a", 0.5), ("a", 1.0), ("a", 0.0)]
    given: tuple[Any, ...] = (torch.randn(5 * columns, WIDTH), torch.arange(5 * columns) % EXPERTS)
    wanted = [merged(model, parts, 0.0 if name is None else multiple)(*given) for name, multiple in rows]
    adapters = AppliedAdapters(model)
    assert not adapters.apply("a", adapter_with(parts, ["experts.up", "experts.down"])).facts
    with adapters.selection.for_pass(row_groups(rows, torch.device("cpu")), 5, columns):
        answer = model(*given)
    for row, of_row in enumerate(wanted):
        tokens = slice(row * columns, (row + 1) * columns)
        assert torch.allclose(answer[tokens], of_row[tokens], atol=1e-5), row
    adapters.remove("a")
    assert torch.equal(model(*given), wanted[0])


@pytest.mark.parametrize(
    ("parts", "named", "fact"),
    [
        (updates((INNER, WIDTH)), ["experts.up", "experts.down"], "has 1 updates where the base has 2 targeted"),
        (updates((INNER, WIDTH + 1)), ["experts.up"], "has 6 x 5 where the base has 3 of 6 x 4"),
        (updates((INNER, WIDTH)), ["experts.gate"], "has 1 updates where the base has 0 targeted parameters"),
    ],
)
def test_what_does_not_fit_is_a_fact(parts: ParameterUpdates, named: list[str], fact: str) -> None:
    matched = match_modules(adapter_with(parts, named), Wrapper(False))
    assert not matched.modules and [stated for stated in matched.facts if fact in stated], matched.facts


def test_targeted_parameters_without_a_part_are_a_fact_and_zeros_have_no_effect() -> None:
    parts = updates((INNER, WIDTH))
    silent = replace(parts, pairs=tuple((a, torch.zeros_like(b)) for a, b in parts.pairs))
    lacking = replace(adapter_with(parts, ["experts.up"]), parameters={})
    assert "1 of 1 modules with targeted parameters have no part in the files: experts" in "".join(
        match_modules(lacking, Wrapper(False)).facts
    )
    assert "the effect is zero" in "".join(match_modules(adapter_with(silent, ["experts.up"]), Wrapper(False)).facts)


class OnceEach(nn.Module):
    """All tokens through every expert, laid out expert by expert, as in Llama 4."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(EXPERTS, WIDTH, INNER))
        self.down = nn.Parameter(torch.randn(EXPERTS, INNER, WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        by_expert = torch.relu(x.view(EXPERTS, -1, WIDTH) @ self.up)
        return (by_expert @ self.down).view(-1, WIDTH)


@pytest.mark.parametrize("columns", [1, 2])
def test_experts_that_each_get_all_tokens_are_changed_for_the_rows_of_the_adapter_alone(columns: int) -> None:
    torch.manual_seed(0)
    model = nn.Module()
    model.experts = OnceEach()
    parts = updates((WIDTH, INNER), (INNER, WIDTH))
    rows = [(None, 1.0), ("a", 1.0), ("a", 0.5), ("a", 1.0)]
    given = torch.randn(EXPERTS * len(rows) * columns, WIDTH)
    changed = OnceEach()
    wanted = []
    for name, multiple in rows:
        changed.load_state_dict(model.experts.state_dict())
        for own, (a, b) in zip((changed.up, changed.down), parts.pairs, strict=True):
            for e in range(EXPERTS):
                own.data[e] += (name is not None) * multiple * SCALING * b[:, e::EXPERTS] @ a[e * RANK : (e + 1) * RANK]
        wanted.append(changed(given).detach().unflatten(0, (EXPERTS, len(rows), columns)))
    adapters = AppliedAdapters(model)
    assert not adapters.apply("a", adapter_with(parts, ["experts.up", "experts.down"])).facts
    with adapters.selection.for_pass(row_groups(rows, torch.device("cpu")), len(rows), columns):
        answer = model.experts(given).unflatten(0, (EXPERTS, len(rows), columns))
    for row, of_row in enumerate(wanted):
        assert torch.allclose(answer[:, row], of_row[:, row], atol=1e-5), row
