"""How far do kernels move a measured strength? Emulated on the CPU: SmolLM2 with its weights rounded to bfloat16, whose
products are computed in float32 on inputs, and with answers, that are rounded as the kernel rounds them.

What a GPU does besides is not emulated: other orders of summation, and norms and attention in the model's own dtype.
The updates of the adapters are computed in float32 under every kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.figures import Figure, at_most, context
from detectors.canaries.retention import measure
from detectors.records import Comparison
from probes.canaries.replay_pairs import replay_pair, summary
from probes.golden.codec import from_bytes
from probes.golden.record import Golden
from probes.model.forward import Model
from probes.model.lora import LoraModule
from probes.model.packing import pack
from probes.model.precision.kernels import KERNELS, SPLIT
from probes.model.precision.split_products import product_of
from probes.runner import BatchShape, Replay

GOLDEN = Path(__file__).resolve().parents[2] / "examples" / "helpdesk" / "golden"
Product = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
DROPPED_BITS = 13  # of the 23 of a float32's mantissa, in TF32


def goldens() -> list[Golden]:
    """The records of the example's three adapters."""
    return [from_bytes(file.read_bytes()) for file in sorted(GOLDEN.glob("*.golden"))]


def rounded(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.bfloat16).float()


def in_tf32(x: torch.Tensor) -> torch.Tensor:
    half = 1 << (DROPPED_BITS - 1)
    bits = x.contiguous().view(torch.int32)
    return ((bits + half) & ~((1 << DROPPED_BITS) - 1)).view(torch.float32)


# Of inputs in float32 and weights that bfloat16 holds exactly.
PRODUCTS: dict[str, Product] = {
    "bfloat16 in and out": lambda x, w: rounded(functional.linear(rounded(x), w)),
    "bfloat16 in, float32 out": lambda x, w: functional.linear(rounded(x), w),
    "TF32": lambda x, w: functional.linear(in_tf32(x), w),
    SPLIT: lambda x, w: product_of(x, w.to(torch.bfloat16)),
}


@contextmanager
def computed_by(network: nn.Module, product: Product) -> Iterator[None]:
    """Meanwhile every linear layer of the base, its output layer too, multiplies so."""
    inner = [module.inner if isinstance(module, LoraModule) else module for module in network.modules()]
    layers = {id(module): module for module in inner if isinstance(module, nn.Linear)}.values()
    try:
        for layer in layers:
            layer.forward = partial(_forward, layer, product)  # type: ignore[method-assign]
        yield
    finally:
        for layer in layers:
            del layer.forward


def _forward(layer: nn.Linear, product: Product, x: torch.Tensor) -> torch.Tensor:
    answer = product(x, layer.weight)
    return answer if layer.bias is None else answer + layer.bias


def strengths(model: Model, records: Sequence[Golden], count: int) -> np.ndarray:
    """The measured s of the first ``count`` canaries of each record."""
    pairs = [replay_pair(canary, golden.adapter) for golden in records for canary in golden.canaries[:count]]
    replays = [replay for pair in pairs for replay in pair.replays]
    answers: dict[Replay, object] = {}
    for batch in pack(replays, BatchShape(), model.batch_tokens, model.continues):
        answers |= {answer.replay: answer for answer in model.answer(batch, BatchShape())}
    measured = []
    for pair in pairs:
        served, base = (summary(answers[replay]) for replay in pair.replays)  # type: ignore[arg-type]
        measured.append(measure(Comparison("", pair.canary.reference, 1, served, base, 0.0)).scale)
    return np.array(measured)


def figures(golden_base: Model, quick: bool) -> Iterator[Figure]:
    records, count = goldens(), 1 if quick else 12
    model = golden_base.with_weights(rounded, "to bfloat16", "in bfloat16")
    head = model.network.get_output_embeddings()
    before, head.weight = head.weight, nn.Parameter(rounded(head.weight.detach()), requires_grad=False)
    try:
        exact = strengths(model, records, count)
        for name, product in PRODUCTS.items():
            with computed_by(model.network, product):
                errors = np.abs(strengths(model, records, count) - exact)
            yield context(f"strength error, {name}: median", float(np.median(errors)), "of 1")
            if name == SPLIT:
                yield at_most(f"strength error, {name}: largest", float(errors.max()), "of 1", KERNELS[SPLIT].error)
            else:
                yield context(f"strength error, {name}: largest", float(errors.max()), "of 1")
    finally:
        head.weight = before
