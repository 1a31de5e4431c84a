"""An experiment, not used by the product: all adapters of a module in one tensor, applied by two grouped matrix
products per module whatever the number of adapters (torch.nn.functional.grouped_mm)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from benchmarks.gpu.card import KEPT, SPREAD, Pace, Size, linear_layers, paced, seconds

HEAD_ROWS = 2048  # positions of one head call: their logits over a large vocabulary are the largest tensor there is


@dataclass(slots=True)
class Seats:
    """Which adapter answers which row of the pass.

    first: first row of an adapter, after the rows of the base; ends: end of each adapter's flat rows, counted from
    there, None while only the base answers
    """

    first: int = 0
    ends: torch.Tensor | None = None


class Stack(nn.Module):
    """A linear module with the LoRA matrices of all adapters: a (adapters, in, r), b (adapters, r, out)."""

    def __init__(self, inner: nn.Module, a: torch.Tensor, b: torch.Tensor, seats: Seats) -> None:
        super().__init__()
        self.inner, self.a, self.b, self.seats = inner, a, b, seats

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.inner(x)
        if self.seats.ends is None:
            return y
        adapter_rows = slice(self.seats.first, None)
        narrow = functional.grouped_mm(x[adapter_rows].reshape(-1, x.shape[-1]), self.a, offs=self.seats.ends)
        y[adapter_rows].view(-1, y.shape[-1]).add_(functional.grouped_mm(narrow, self.b, offs=self.seats.ends))
        return y


def stacked(net: nn.Module, size: Size, adapters: int, dtype: torch.dtype) -> Seats:
    """Put random adapters beside every linear module of the network."""
    seats = Seats()

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(adapters, *shape, device=size.device, dtype=dtype) * SPREAD

    for name, layer in linear_layers(net).items():
        owner, _, last = name.rpartition(".")
        parts = random(layer.in_features, size.rank), random(size.rank, layer.out_features)
        setattr(net.get_submodule(owner), last, Stack(layer, *parts, seats))
    return seats


def one_pass(net: Any, size: Size, adapters: int, rows_each: int, dtype: torch.dtype) -> tuple[Pace, float]:
    """Base rows first, then ``rows_each`` rows of each adapter, all of one length; the head only at scored positions.

    Returns the pace and the seconds of one pass.
    """
    length = size.prompt + size.forced - 1
    rows, half = 2 * adapters * rows_each, adapters * rows_each
    seats = stacked(net, size, adapters, dtype)
    ids = torch.randint(0, size.vocabulary, (rows, length), device=size.device)
    kept = torch.randint(0, size.vocabulary, (rows * size.forced, KEPT), device=size.device)
    seats.first = half
    seats.ends = torch.arange(1, adapters + 1, device=size.device, dtype=torch.int32) * (rows_each * length)

    def work() -> torch.Tensor:
        states = net.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, size.prompt - 1 :]
        return _kept_log_probs(net.get_output_embeddings().weight, states.reshape(-1, size.width), kept)

    with torch.inference_mode():
        took = seconds(size, work, 2)
    return paced(rows * length / took, net), took


def _kept_log_probs(head: torch.Tensor, states: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """(N, K) log-probabilities of the kept tokens, a few positions at a time."""
    chunks = []
    for at in range(0, len(states), HEAD_ROWS):
        logits = functional.linear(states[at : at + HEAD_ROWS], head).float()
        chunks.append(logits.gather(1, kept[at : at + HEAD_ROWS]) - logits.logsumexp(-1, keepdim=True))
    return torch.cat(chunks)
