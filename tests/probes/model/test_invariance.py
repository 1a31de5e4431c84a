"""Models whose answers depend on batching, padding or caching: which are refused, and which shortcuts go unused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from probes.model.invariance import check_invariance


@pytest.fixture
def network() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=98, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.12,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def test_a_plain_model_bears_everything_and_calls_every_linear_layer(network: LlamaForCausalLM) -> None:
    traits = check_invariance(network)
    assert traits.plain_head and traits.continues
    linear = {name for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Embedding)}
    assert len(linear) == 16 and linear <= traits.rowwise


class Ahead(nn.Module):
    """Adds to each token the mean of its row: what comes after is seen, as an encoder sees it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + x.mean(dim=1, keepdim=True)


class Across(nn.Module):
    """Adds to each row the mean of the batch, as a normalisation over the batch would."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + x.mean(dim=0, keepdim=True)


class Carried(nn.Module):
    """Adds what the pass before ended with, as a layer does that keeps its state in itself."""

    def __init__(self) -> None:
        super().__init__()
        self.state: Any = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before = 0 if self.state is None or x.shape[1] > 1 else self.state[:1, -1:]
        self.state = x
        return x + before


class Infinite(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (Ahead, "what comes after it, or on its neighbours"),
        (Across, "what comes after it, or on its neighbours"),
        (Carried, "with a cache it answers otherwise"),
        (Infinite, "NaN or infinite"),
    ],
)
def test_answers_that_depend_on_how_one_asks_are_refused(
    network: LlamaForCausalLM, layer: Callable[[], nn.Module], reason: str, dtype: torch.dtype
) -> None:
    network.model.norm = nn.Sequential(layer(), network.model.norm)
    with pytest.raises(RuntimeError, match=reason):
        check_invariance(network.to(dtype))


class Elsewhere(nn.Module):
    """Turns one token round where it is read beside others, as a router on the edge sends it to another expert."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sign = torch.ones_like(x[..., :1])
        sign[:, -2 if x.shape[1] > 1 else -1] = -1 if x.shape[0] > 1 and x.shape[1] > 1 else 1
        return x * sign


def test_a_token_that_a_rounding_sends_to_another_expert_is_no_fault_in_half_precision(
    network: LlamaForCausalLM,
) -> None:
    network.model.norm = nn.Sequential(Elsewhere(), network.model.norm)
    with pytest.raises(RuntimeError, match="its neighbours in the batch"):
        check_invariance(network)
    assert check_invariance(network.to(torch.bfloat16)).plain_head


class Asserting(nn.Module):
    """Will not take several tokens at once where there are two rows, as kernels that write one at a time will not."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[0] == 1 or x.shape[1] != 6
        return x


def test_a_layer_that_will_not_go_on_with_several_tokens_is_asked_one_by_one(network: LlamaForCausalLM) -> None:
    network.model.norm = nn.Sequential(Asserting(), network.model.norm)
    assert not check_invariance(network).continues


class Read(nn.Module):
    """A feed-forward layer that reads the weights of one of its own, calls one, and sends some tokens to another."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.called, self.left_out = (nn.Linear(64, 64) for _ in range(3))
        self.experts = nn.ModuleList([nn.Linear(64, 64) for _ in range(2)])
        self.shared = nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = x @ self.read.weight.T + self.called(x)
        flat = x.flatten(0, 1)
        y = y + self.shared(flat).view(x.shape) + self.experts[0](flat).view(x.shape)
        return y + 0 * self.experts[1](flat[:1]).sum()


def test_modules_that_are_not_called_with_all_rows_are_told(network: LlamaForCausalLM) -> None:
    torch.manual_seed(0)
    network.model.layers[0].mlp = Read()
    called = {name for name in check_invariance(network).rowwise if name.startswith("model.layers.0.mlp.")}
    assert called == {"model.layers.0.mlp.called", "model.layers.0.mlp.shared"}
