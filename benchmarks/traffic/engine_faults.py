"""What a serving engine may do to an adapter or to its base while all files stay as accepted.

An adapter without one of its blocks; slices of a tensor-parallel engine's ranks that are lost or on the wrong rank; and
a base that the engine itself rounds when it loads. Pure: what goes in is not changed.

A rank of a tensor-parallel engine has a slice of every module: of the output of most, and so of the rows of B; of the
input of those that sum over ranks, and so of the columns of A. RANKS is what the attention heads of the model allow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch

from probes.artefacts.grid_levels import NF4_LEVELS
from probes.artefacts.lora_files import LoraAdapter, LowRankUpdate
from probes.model.faulty_adapters import without
from probes.model.quantise import rounded_rows

WITHOUT = "without "
RANKS = 3
SUMS_OVER_RANKS = ("o_proj", "down_proj")
LARGEST_E4M3 = 448.0
NF4_BLOCK = 64
# Writer -> of each rank, whose slice it has; None for none.
SLICES: Mapping[str, tuple[int | None, ...]] = {
    "the slice of one rank lost": (0, None, 2),
    "the slices of two ranks exchanged": (0, 2, 1),
    "the first slice on every rank": (0, 0, 0),
}


def nf4(weight: torch.Tensor) -> torch.Tensor:
    """The nearest level of bitsandbytes' NF4, with a scale for each block of a row. weight: (out, in); in a multiple of
    the block. Source: Dettmers et al. (2023), QLoRA, appendix E."""
    blocks = weight.float().reshape(-1, NF4_BLOCK)
    scale = blocks.abs().amax(dim=1, keepdim=True).clamp(min=1e-12)
    levels = torch.tensor(NF4_LEVELS, dtype=torch.float32)
    nearest = torch.bucketize(blocks / scale, (levels[1:] + levels[:-1]) / 2)
    return (levels[nearest] * scale).reshape(weight.shape).to(weight.dtype)


def fp8(weight: torch.Tensor) -> torch.Tensor:
    """E4M3 with one scale for the matrix, as vLLM's ``--quantization fp8`` stores weights; its activations, which it
    rounds too, stay as they are here."""
    scale = weight.float().abs().amax() / LARGEST_E4M3
    return ((weight.float() / scale).to(torch.float8_e4m3fn).float() * scale).to(weight.dtype)


# Writer -> what it makes of a weight.
ROUNDINGS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "4 bits": partial(rounded_rows, bits=4),
    "4 bits in groups of 128": partial(rounded_rows, bits=4, group=128),
    "8 bits": partial(rounded_rows, bits=8),
    "NF4": nf4,
    "FP8": fp8,
}


def is_of_adapter(writer: str) -> bool:
    """Is it the adapter that this writer changes?"""
    return writer.startswith(WITHOUT) or writer in SLICES


def changed(adapter: LoraAdapter, writer: str) -> LoraAdapter:
    """The adapter as the engine applies it. writer: one that ``is_of_adapter``"""
    if writer.startswith(WITHOUT):
        return without(adapter, writer.removeprefix(WITHOUT))
    parts = {module: _sliced(module, own, SLICES[writer]) for module, own in adapter.low_rank.items()}
    return replace(adapter, low_rank=parts)


def _sliced(module: str, update: LowRankUpdate, slices: tuple[int | None, ...]) -> LowRankUpdate:
    if module.rpartition(".")[2] in SUMS_OVER_RANKS:
        return replace(update, a=_along(update.a, 1, slices))
    return replace(update, b=_along(update.b, 0, slices))


def _along(matrix: torch.Tensor, axis: int, slices: tuple[int | None, ...]) -> torch.Tensor:
    parts = matrix.chunk(RANKS, dim=axis)
    if len({part.shape for part in parts}) > 1 or len(parts) < RANKS:
        raise ValueError(f"{tuple(matrix.shape)} in {RANKS} equal parts")
    taken = [torch.zeros_like(parts[0]) if whose is None else parts[whose] for whose in slices]
    return torch.cat(taken, dim=axis)
