"""Quantisers written from their published formulas: (out, in) float32 -> the weights that a reader de-quantises."""

from __future__ import annotations

from collections.abc import Callable

import gguf
import numpy as np
import torch

from probes.artefacts.grid_levels import FP4_LEVELS, NF4_LEVELS

Recipe = Callable[[torch.Tensor], torch.Tensor]


def _grouped(weight: torch.Tensor, group: int) -> list[torch.Tensor]:
    """A row's end may hold fewer."""
    return list(weight.split(group or weight.shape[1], dim=1))


def symmetric(bits: int, group: int = 0) -> Recipe:
    """Round to nearest, the largest weight of each group on the outermost level: LLM.int8 (Dettmers et al. 2022) in 8
    bits with one scale a row."""

    def one(part: torch.Tensor) -> torch.Tensor:
        step = part.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
        return (part / step).round() * step

    return lambda weight: torch.cat([one(part) for part in _grouped(weight, group)], dim=1)


def _step_and_zero(part: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    low, high = part.amin(1, keepdim=True), part.amax(1, keepdim=True)
    step = (high - low) / (2**bits - 1)
    return step, (-low / step).round()


def _with_zero(part: torch.Tensor, step: torch.Tensor, zero: torch.Tensor, bits: int) -> torch.Tensor:
    return (((part / step).round() + zero).clamp(0, 2**bits - 1) - zero) * step


def asymmetric(bits: int, group: int = 0) -> Recipe:
    """Round to nearest with an integer zero point, as AWQ stores it (Lin et al. 2024)."""

    def one(part: torch.Tensor) -> torch.Tensor:
        return _with_zero(part, *_step_and_zero(part, bits), bits)

    return lambda weight: torch.cat([one(part) for part in _grouped(weight, group)], dim=1)


def of_levels(levels: tuple[float, ...], group: int) -> Recipe:
    """The nearest of these levels times the largest weight of the group: NF4 and FP4 (QLoRA, Dettmers et al. 2023)."""
    table = torch.tensor(levels, dtype=torch.float32)

    def one(part: torch.Tensor) -> torch.Tensor:
        largest = part.abs().amax(1, keepdim=True)
        return table[((part / largest)[..., None] - table).abs().argmin(-1)] * largest

    return lambda weight: torch.cat([one(part) for part in _grouped(weight, group)], dim=1)


def with_error_feedback(bits: int, group: int) -> Recipe:
    """GPTQ (Frantar et al. 2023, algorithm 1, without lazy batches) on inputs that are correlated."""

    def quantised(weight: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1)
        width = weight.shape[1]
        mixing = torch.eye(width) + 0.3 * torch.randn(width, width, generator=generator) / width**0.5
        inputs = torch.randn(256, width, generator=generator) @ mixing
        hessian = inputs.T @ inputs / 256 + 0.1 * torch.eye(width)
        inverse = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
        left, out = weight.clone(), torch.zeros_like(weight)
        for column in range(width):
            if column % group == 0:
                step, zero = _step_and_zero(left[:, column : column + group], bits)
            out[:, column] = _with_zero(left[:, column : column + 1], step, zero, bits)[:, 0]
            error = (left[:, column] - out[:, column]) / inverse[column, column]
            left[:, column + 1 :] -= error[:, None] * inverse[column, column + 1 :]
        return out

    return quantised


def eight_bit_float(kind: torch.dtype, block: tuple[int, int] | None = None) -> Recipe:
    """FP8 with one scale a block, None for the whole matrix: the largest weight on the largest number."""

    def one(part: torch.Tensor) -> torch.Tensor:
        scale = part.abs().max() / torch.finfo(kind).max
        return (part / scale).to(kind).float() * scale

    def quantised(weight: torch.Tensor) -> torch.Tensor:
        rows, columns = block or weight.shape
        parts = [[one(part) for part in row.split(columns, dim=1)] for row in weight.split(rows)]
        return torch.cat([torch.cat(row, dim=1) for row in parts])

    return quantised


def in_sixteens(weight: torch.Tensor) -> torch.Tensor:
    """NVFP4: E2M1 in groups of 16, their scales in FP8 E4M3 with one scale of the matrix above them."""
    table = torch.tensor(both_signs((0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)))
    above = weight.abs().max() / (448.0 * 6.0)
    parts = weight.reshape(-1, 16)
    scales = (parts.abs().amax(1, keepdim=True) / 6.0 / above).to(torch.float8_e4m3fn).float() * above
    return (table[((parts / scales)[..., None] - table).abs().argmin(-1)] * scales).reshape(weight.shape)


def ternary(weight: torch.Tensor) -> torch.Tensor:
    """BitNet b1.58 (Ma et al. 2024): -1, 0 or 1 times the mean size of the matrix."""
    mean = weight.abs().mean()
    return (weight / mean).round().clamp(-1, 1) * mean


def of_super_blocks(bits: int) -> Recipe:
    """Q3_K and Q6_K of llama.cpp: groups of 16, their scales rounded to integers of one float16 for 256 weights."""
    half = 2 ** (bits - 1)
    most = 31 if bits == 3 else 127

    def quantised(weight: torch.Tensor) -> torch.Tensor:
        parts = weight.reshape(-1, 16)
        largest = parts.gather(1, parts.abs().argmax(1, keepdim=True))
        wide = (largest / -half).reshape(-1, 16)[:, :, None]
        above = (wide.abs().amax(1, keepdim=True) / most).half().float()
        scales = ((wide / above).round() * above).reshape(-1, 1)
        levels = (parts / scales.where(scales != 0, torch.ones(()))).round().clamp(-half, half - 1)
        return (levels * scales).reshape(weight.shape)

    return quantised


def of_gguf(kind: str) -> Recipe:
    """As llama.cpp's own Python package writes and reads it."""
    form = gguf.GGMLQuantizationType[kind]

    def quantised(weight: torch.Tensor) -> torch.Tensor:
        stored = gguf.quants.quantize(weight.numpy(), form)
        return torch.from_numpy(np.array(gguf.quants.dequantize(stored, form)))

    return quantised


def transposed(recipe: Recipe) -> Recipe:
    """Of a layer that is stored (in, out), as GPT-2's are."""
    return lambda weight: recipe(weight.T.contiguous()).T.contiguous()


def both_signs(levels: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(sorted({sign * level for level in levels for sign in (-1.0, 1.0)}))


# Recipe -> what is read of its weights.
RECIPES: dict[str, tuple[Recipe, str]] = {
    "QLoRA NF4": (of_levels(NF4_LEVELS, 64), "4 bits in groups of 64 (NF4 levels)"),
    "bitsandbytes FP4": (of_levels(both_signs(FP4_LEVELS), 64), "4 bits in groups of 64 (FP4 levels)"),
    "LLM.int8": (symmetric(8), "8 bits with one scale a row (evenly spaced levels)"),
    "int8 in groups": (symmetric(8, 64), "8 bits in groups of 64 (evenly spaced levels)"),
    "4 bits, a row": (symmetric(4), "4 bits with one scale a row (evenly spaced levels)"),
    "4 bits, 32": (symmetric(4, 32), "4 bits in groups of 32 (evenly spaced levels)"),
    "4 bits, 128": (symmetric(4, 128), "4 bits in groups of 128 (evenly spaced levels)"),
    "AWQ-like, 32": (asymmetric(4, 32), "4 bits in groups of 32 (evenly spaced levels)"),
    "AWQ-like, 128": (asymmetric(4, 128), "4 bits in groups of 128 (evenly spaced levels)"),
    "3 bits, 128": (asymmetric(3, 128), "3 bits in groups of 128 (evenly spaced levels)"),
    "GPTQ, 128": (with_error_feedback(4, 128), "4 bits in groups of 128 (evenly spaced levels)"),
    "FP8 E4M3": (eight_bit_float(torch.float8_e4m3fn), "8 bits with one scale a matrix (FP8 E4M3 levels)"),
    "FP8 E4M3, blocks": (
        eight_bit_float(torch.float8_e4m3fn, (128, 128)),
        "8 bits in blocks of 128 x 128 (FP8 E4M3 levels)",
    ),
    "FP8 E4M3, rows": (
        eight_bit_float(torch.float8_e4m3fn, (1, 1 << 20)),
        "8 bits with one scale a row (FP8 E4M3 levels)",
    ),
    "NVFP4": (in_sixteens, "4 bits in groups of 16 (E2M1 levels)"),
    "BitNet": (ternary, "2 bits with one scale a matrix (evenly spaced levels)"),
    "FP8 E5M2": (eight_bit_float(torch.float8_e5m2), "8 bits with one scale a matrix (FP8 E5M2 levels)"),
    "Q3_K": (of_super_blocks(3), "3 bits in groups of 16 (evenly spaced levels)"),
    "Q6_K": (of_super_blocks(6), "6 bits in groups of 16 (evenly spaced levels)"),
    "Q4_0": (of_gguf("Q4_0"), "4 bits in groups of 32 (evenly spaced levels)"),
    "Q4_1": (of_gguf("Q4_1"), "4 bits in groups of 32 (evenly spaced levels)"),
    "Q5_0": (of_gguf("Q5_0"), "5 bits in groups of 32 (evenly spaced levels)"),
    "Q8_0": (of_gguf("Q8_0"), "8 bits in groups of 32 (evenly spaced levels)"),
    "GPT-2's layers": (transposed(symmetric(4, 64)), "4 bits in groups of 64 of a column (evenly spaced levels)"),
}
