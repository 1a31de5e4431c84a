"""Shared by the stages of ``replay_on_gpu``: a model of random weights on the GPU, random adapters, and timing that
waits for the GPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from probes.artefacts.identity import NEWEST
from probes.artefacts.lora_files import LoraAdapter, LowRankUpdate
from probes.model.forward import Model
from probes.model.lora import AppliedAdapters
from probes.runner import BatchShape, Replay, Target

KEPT = 41  # tokens kept of each position: what a golden record keeps of two references
SPREAD = 0.02  # of random adapter weights


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured, and where.

    adapters, canaries: replayed, canaries of each adapter; prompt, forced: mean tokens of a canary; rank: of each
    adapter; limit_s: of one figure; llama: the shape of the model, fields of LlamaConfig
    """

    device: torch.device
    adapters: int
    canaries: int
    prompt: int
    forced: int
    rank: int
    limit_s: float
    llama: dict[str, int | float]

    @property
    def on_card(self) -> bool:
        return self.device.type == "cuda"

    @property
    def vocabulary(self) -> int:
        return int(self.llama["vocab_size"])

    @property
    def width(self) -> int:
        return int(self.llama["hidden_size"])


TINY = Size(
    torch.device("cpu"),
    adapters=4,
    canaries=4,
    prompt=6,
    forced=4,
    rank=8,
    limit_s=1.0,
    llama={
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
)
# The shape of an 8B model; its weights are random, so nothing is downloaded.
WHOLE = Size(
    torch.device("cuda"),
    adapters=64,
    canaries=32,
    prompt=60,
    forced=24,
    rank=16,
    limit_s=20.0,
    llama={
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "rope_theta": 5e5,
    },
)


@dataclass(frozen=True, slots=True)
class Precision:
    """The precision of the model. tf32: float32 products on tensor cores, with ten bits of mantissa."""

    name: str
    dtype: torch.dtype
    tf32: bool = False

    @contextmanager
    def in_force(self) -> Iterator[None]:
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = self.tf32
        try:
            yield
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before


PRECISIONS = (
    Precision("fp32", torch.float32),
    Precision("tf32", torch.float32, tf32=True),
    Precision("bf16", torch.bfloat16),
)


def synchronised(size: Size) -> None:
    """Wait until the GPU has finished its queue."""
    if size.on_card:
        torch.cuda.synchronize()


def released(size: Size) -> None:
    """Return unused memory to the device, so that the next model fits."""
    if size.on_card:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def seconds(size: Size, work: Callable[[], object], times: int = 3) -> float:
    """Mean duration of ``work``, after one run that does not count."""
    work()
    synchronised(size)
    began = time.perf_counter()
    for _ in range(times):
        work()
    synchronised(size)
    return (time.perf_counter() - began) / times


def network(size: Size, dtype: torch.dtype) -> LlamaForCausalLM:
    """A model of random weights, created on its device."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(size.device):
            created: LlamaForCausalLM = LlamaForCausalLM(LlamaConfig(**size.llama)).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(before)
    return created


def linear_layers(net: nn.Module) -> dict[str, nn.Linear]:
    """The layers that adapters change: all linear ones except the output layer."""
    return {
        name: module for name, module in net.named_modules() if isinstance(module, nn.Linear) and "lm_head" not in name
    }


def body_weights(net: nn.Module) -> int:
    """Number of weights; each is used in one multiply-add per token."""
    return sum(layer.weight.numel() for layer in linear_layers(net).values())


def model(net: LlamaForCausalLM) -> Model:
    return Model("random", Path(), net, AppliedAdapters(net), frozenset(), plain_head=True)


def adapters(net: nn.Module, size: Size, dtype: torch.dtype, count: int) -> Iterator[tuple[str, LoraAdapter]]:
    """``count`` named adapters of random weights on every linear layer, one at a time.

    The layers are looked up first, because putting an adapter in place renames them.
    """

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=size.device, dtype=dtype) * SPREAD

    layers = list(linear_layers(net).items())
    for number in range(count):
        parts = {
            name: LowRankUpdate(random(size.rank, layer.in_features), random(layer.out_features, size.rank), 2.0)
            for name, layer in layers
        }
        yield adapter_name(number), LoraAdapter("", {NEWEST: "random"}, size.rank, 2.0 * size.rank, parts, {})


def adapter_name(number: int) -> str:
    return f"a{number:03d}"


def replays(size: Size, adapters: int) -> list[Replay]:
    """Canaries of random tokens and lengths, each answered by its adapter and by the base."""
    rng = np.random.default_rng(0)
    all_replays: list[Replay] = []
    for number in range(adapters):
        for canary in range(size.canaries):
            n_prompt, n_forced = (max(2, int(rng.normal(mean, mean / 5))) for mean in (size.prompt, size.forced))
            ids = rng.integers(0, size.vocabulary, n_prompt + n_forced).tolist()
            kept = np.sort(rng.choice(size.vocabulary, (n_forced, KEPT)), axis=1).astype(np.int32)
            text = tuple(ids[:n_prompt]), tuple(ids[n_prompt:])
            all_replays += [
                Replay(str(canary), *text, Target(adapter), kept) for adapter in (adapter_name(number), None)
            ]
    return all_replays


@dataclass(frozen=True, slots=True)
class Pace:
    """Tokens processed per second, and the arithmetic that this takes, in 1e12 operations per second."""

    tokens_a_second: float
    teraflops: float


def pace(size: Size, on: Model, batches: Sequence[Sequence[Replay]]) -> Pace:
    """How fast these micro-batches are answered, as many as fit into the time limit."""
    synchronised(size)
    began, read = time.perf_counter(), 0
    for batch in batches:
        on.answer(batch, BatchShape(rows=len(batch)))
        read += sum(len(replay.prompt) + len(replay.forced) - 1 for replay in batch)
        if time.perf_counter() - began > size.limit_s:
            break
    synchronised(size)
    return paced(read / (time.perf_counter() - began), on.network)


def paced(tokens_a_second: float, net: nn.Module) -> Pace:
    return Pace(tokens_a_second, 2 * body_weights(net) * tokens_a_second / 1e12)
