"""Is a new base the old one in other coordinates: the same answers from permuted or rotated hidden units?

An adapter then loads, fits by every shape, and reads and writes the wrong units: it is lost although the base is as
good as before. Recognised from the weights, before anything is loaded:

- a permutation of units leaves the values of each matrix as they are, in another order: their moments stay;
- a rotation R of the residual stream leaves what a layer reads of a token, W diag(g) e, as it is, in another order of
  its rows at most, for every token e and every layer (g: of the norm before it; docs/mathematics.md#coordinates).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

import torch

from probes.artefacts.needed_memory import EMBEDDING
from probes.compatibility.stored_tensors import StoredTensors

# Relative difference up to which two float32 sums over the same numbers count as equal, also after 16-bit rounding of a
# rotated matrix.
SAME_MOMENTS, SAME_READINGS = 1e-5, 5e-3
# Of this many of the matrices: some may be stored otherwise.
MOST = 0.95
# A base that moved by less keeps its coordinates: permuted matrices differ by about the square root of 2.
LEAST_CHANGE = 0.1
TOKENS = 64
# Numbers that are widened at once.
PART = 1 << 22
READERS = {
    "self_attn.q_proj": "input_layernorm",
    "self_attn.k_proj": "input_layernorm",
    "self_attn.v_proj": "input_layernorm",
    "mlp.gate_proj": "post_attention_layernorm",
    "mlp.up_proj": "post_attention_layernorm",
}


class Coordinates(StrEnum):
    """SAME also where the base is another one altogether, and where its modules have names that are not read here."""

    SAME = "same"
    PERMUTED = "permuted"
    ROTATED = "rotated"


class Moments(NamedTuple):
    """Of the values of one tensor, whatever their order: mean of x^2, of |x|, and of x^4"""

    square: float
    size: float
    fourth: float

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Moments:
        """In float64, of a part at a time: an embedding alone may be gigabytes."""
        sums = [0.0, 0.0, 0.0]
        for part in tensor.flatten().split(PART):
            values = part.to(torch.float64)
            squares = values.square()
            for index, powers in enumerate((squares, values.abs(), squares.square())):
                sums[index] += float(powers.sum())
        return cls(*(total / max(1, tensor.numel()) for total in sums))

    def is_like(self, other: Moments) -> bool:
        return all(abs(a - b) <= SAME_MOMENTS * max(a, b, 1e-30) for a, b in zip(self, other, strict=True))


class MovedMatrix(NamedTuple):
    """One matrix of both bases. change: |new - old| / |old|"""

    name: str
    change: float
    old: Moments
    new: Moments


def coordinates(old: StoredTensors, new: StoredTensors, moved: Sequence[MovedMatrix]) -> Coordinates:
    """moved: of the matrices that differ, those that both bases have in the same shape"""
    large = [matrix for matrix in moved if matrix.change > LEAST_CHANGE]
    if len(large) < 2:
        return Coordinates.SAME
    if sum(matrix.old.is_like(matrix.new) for matrix in large) >= MOST * len(large):
        return Coordinates.PERMUTED
    names = {matrix.name for matrix in large}
    same = [_same_readings(*pair) for pair in _readings(old, new, names)]
    return Coordinates.ROTATED if same and sum(same) >= MOST * len(same) else Coordinates.SAME


@lru_cache(maxsize=4)  # by identity: one open base
def sampled_tokens(stored: StoredTensors, count: int = TOKENS) -> torch.Tensor | None:
    """(count, H) rows of the embedding at even distances, None where it has another name."""
    name = next((entry for entry in stored.entries if EMBEDDING.search(entry)), None)
    if name is None:
        return None
    embedding = stored.read(name)
    return embedding[torch.linspace(0, len(embedding) - 1, min(count, len(embedding))).long()]


def layer_prefixes(stored: StoredTensors) -> list[str]:
    """``model.layers.0.`` and so on, of modules with Llama's names; none for others."""
    end = "input_layernorm.weight"
    return sorted({name.removesuffix(end) for name in stored.entries if name.endswith(end)})


def readings(stored: StoredTensors, prefix: str, module: str, tokens: torch.Tensor) -> torch.Tensor | None:
    """(tokens, out) what this module of a layer reads of each token by itself; None where the layer lacks it."""
    weight, norm = f"{prefix}{module}.weight", f"{prefix}{READERS[module]}.weight"
    if weight not in stored or norm not in stored:
        return None
    matrix = stored.read(weight)
    if matrix.dim() != 2 or matrix.shape[1] != tokens.shape[1]:
        return None
    return (tokens * stored.read(norm)) @ matrix.T


def _readings(
    old: StoredTensors, new: StoredTensors, names: Collection[str]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Of the named matrices: those that did not move read as before, whatever the others do."""
    tokens = sampled_tokens(old), sampled_tokens(new)
    if tokens[0] is None or tokens[1] is None or tokens[0].shape != tokens[1].shape:
        return
    for prefix in layer_prefixes(old):
        for module in (own for own in READERS if f"{prefix}{own}.weight" in names):
            first, second = readings(old, prefix, module, tokens[0]), readings(new, prefix, module, tokens[1])
            if first is not None and second is not None and first.shape == second.shape:
                yield first, second


def _same_readings(old: torch.Tensor, new: torch.Tensor) -> bool:
    """In any order of the rows of the matrix: sorted for each token."""
    first, second = old.sort(dim=1).values, new.sort(dim=1).values
    return float((first - second).norm()) <= SAME_READINGS * float(first.norm())
