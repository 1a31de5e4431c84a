"""How alike are two adapters, by what they change in the weights? Held against whole matrices in its tests."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from probes.artefacts.lora_files import LoraAdapter, LowRankUpdate

Updates = Mapping[str, LowRankUpdate]


def likeness(first: LoraAdapter, second: LoraAdapter) -> float:
    """The cosine between the weight changes of two adapters, in [-1, 1]; 0 where they share no module.

    <B A, D C> = sum of (B^T D) * (A C^T), of r x r numbers: no matrix of the base's size is formed. A change is that of
    all modules together; one that only one of them has counts in its norm. Whole modules (modules_to_save) are left
    out.
    """
    norms = _inner(first.low_rank, first.low_rank) * _inner(second.low_rank, second.low_rank)
    return _inner(first.low_rank, second.low_rank) / norms**0.5 if norms > 0 else 0.0


def _inner(first: Updates, second: Updates) -> float:
    """Summed over the modules that both change, with equal shapes: others fit another base."""
    shared = [(first[module], second[module]) for module in first.keys() & second.keys()]
    return sum(_of_module(*pair) for pair in shared if _fit(*pair))


def _fit(first: LowRankUpdate, second: LowRankUpdate) -> bool:
    return first.a.shape[1] == second.a.shape[1] and first.b.shape[0] == second.b.shape[0]


def _of_module(first: LowRankUpdate, second: LowRankUpdate) -> float:
    a, b, c, d = (half.to(torch.float32) for half in (first.a, first.b, second.a, second.b))
    return float(((b.T @ d) * (a @ c.T)).sum()) * first.scaling * second.scaling
