"""Is a base quantised? Read from the values of its weights, whatever file format they lie in.

Weights that share one scale take few different values: at most 16 in 4 bits. That survives de-quantising, saving in 16
bits and conversion, because rounding makes no two values of one; it ends where an adapter is merged in or the base is
trained on. No direction of the answers is needed, so that every recipe is recognised (NF4, GPTQ, AWQ, int8, FP8, GGUF).
Not recognised: 5 bits whose levels are not counted from 0 (Q5_1, Q5_K), and GPTQ whose groups are of permuted columns
(``desc_act``), once they are de-quantised. Rows and columns at even distances are read of each matrix, the same ones
each time.

What is a grid and what is chance: probes/artefacts/grid_levels.py, docs/mathematics.md#weight-grids.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors.records import NO_GRID, Floats
from probes.artefacts.grid_levels import (
    EVEN,
    distinct_values,
    evidence_of_few,
    evidence_of_levels,
    is_evenly_spaced,
    level_tables,
    mantissa_bits,
)
from probes.artefacts.safetensors_header import RawTensor

# Weights that are read of each matrix at least, along its rows and again along its columns. A few are read first:
# nearly every matrix without a grid ends there.
FIRST, ENOUGH = 1 << 12, 1 << 14
# Groups that are compared with a name's levels.
NAMED, FEW = 64, 4
BITS = (2, 3, 4, 5, 6, 8)
GROUPS = (256, 128, 64, 32, 16)
BLOCK, BLOCKS = 128, 4
ONE_A_ROW = "with one scale a row"
# A matrix has a grid when chance would give it one with at most e^-40, and there are below a hundred grids to try.
ENOUGH_NATS = 40.0
# Tried by their levels, because so few weights have no repeats: (bits, weights that share a scale).
NARROW = ((4, 16), (5, 32), (6, 16), (8, 128), (8, 64), (8, 32))
LEAST_SIDE = 32
# Embeddings and the output layer are mostly left as they were; a router of experts is tiny.
NOT_LINEAR = re.compile(r"embed|wte|wpe|lm_head|\boutput\.weight|router|score")
KINDS = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
# Bits that a method of config.json stands for where it names none.
BITS_OF_METHOD = {"fp8": 8, "fbgemm_fp8": 8, "mxfp4": 4, "awq": 4, "hqq": 4, "aqlm": 2, "bitnet": 2}

Stored = NDArray[Any]
"""(out, in) as it lies in the file: float32, float16, or bfloat16 as unsigned integers."""


class Grid(NamedTuple):
    """bits: a weight; shared: which weights share a scale, in words; levels: their name, "" for none that is known"""

    bits: int
    shared: str
    levels: str

    @property
    def words(self) -> str:
        return f"{self.bits} bits {self.shared}" + (f" ({self.levels} levels)" if self.levels else "")


def grid_of_base(config: Mapping[str, Any], tensors: Iterable[RawTensor]) -> str:
    """How the base's weights are quantised, in words with counts; NO_GRID where they are not, "" where it is unknown.

    config: config.json, which says it of weights that are stored quantised; tensors: of plain weights
    """
    return _of_config(config) or _of_weights(tensors)


def matrix_grid(matrix: Stored) -> Grid | None:
    """The grid of fewest bits on which all sampled weights lie.

    matrix: (out, in) as stored; None where there is none, and for a matrix of one or two values
    """
    grids = [by(matrix, ENOUGH) for by in (_by_counts, _by_levels) if by(matrix, FIRST)]
    return min((grid for grid in grids if grid), key=lambda grid: grid.bits, default=None)


def _of_weights(tensors: Iterable[RawTensor]) -> str:
    matrices = [matrix_grid(matrix) for tensor in tensors for matrix in _linear(tensor)]
    grids = [grid for grid in matrices if grid]
    if not matrices:
        return ""
    if 2 * len(grids) < len(matrices):
        return NO_GRID
    (bits, shared), count = Counter((grid.bits, grid.shared) for grid in grids).most_common(1)[0]
    levels = Counter(grid.levels for grid in grids if (grid.bits, grid.shared) == (bits, shared)).most_common(1)[0][0]
    return f"{Grid(bits, shared, levels).words}: {count} of {len(matrices)} linear matrices"


def _of_config(config: Mapping[str, Any]) -> str:
    stored = config.get("quantization_config")
    if not isinstance(stored, dict) or not stored:
        return ""
    unnamed = "bitsandbytes" if _is_bitsandbytes(stored) else "a method without a name"
    method = str(stored.get("quant_method") or unnamed)
    bits = _bits(stored, method)
    group = stored.get("group_size") or stored.get("q_group_size") or _weights_of(stored).get("group_size")
    shared = f" in groups of {group}" if isinstance(group, int) and group > 0 else ""
    return f"{bits} bits{shared} ({method}): says config.json" if bits else f"quantised ({method}): says config.json"


def _bits(stored: Mapping[str, Any], method: str) -> int:
    """0 where neither the settings nor the method say it."""
    if _is_bitsandbytes(stored):
        return 4 if stored.get("load_in_4bit") else 8
    named = stored.get("bits") or stored.get("w_bit") or _weights_of(stored).get("num_bits")
    return named if isinstance(named, int) else BITS_OF_METHOD.get(method, 0)


def _is_bitsandbytes(stored: Mapping[str, Any]) -> bool:
    return bool(stored.get("load_in_4bit") or stored.get("load_in_8bit"))


def _weights_of(stored: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings of weights in the format of compressed-tensors."""
    groups = stored.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, dict) else None
    weights = first.get("weights") if isinstance(first, dict) else None
    return weights if isinstance(weights, dict) else {}


def _linear(tensor: RawTensor) -> Iterator[Stored]:
    """The tensor as the matrix of a linear layer; fused experts as one matrix. Nothing for any other tensor."""
    if tensor.kind not in KINDS or len(tensor.shape) not in (2, 3) or NOT_LINEAR.search(tensor.name):
        return
    stored = np.frombuffer(tensor.data, KINDS[tensor.kind]).reshape(-1, tensor.shape[-1])
    if min(stored.shape) >= LEAST_SIDE:
        yield stored


def _floats(part: Stored) -> Floats:
    """A part of a stored matrix in float32; bfloat16 is stored as the upper half of its bits."""
    if part.dtype == np.dtype("<u2"):
        part = (part.astype(np.uint32) << 16).view(np.float32)
    return np.ascontiguousarray(part, np.float32)


def _sampled(matrix: Stored, weights: int) -> Iterator[tuple[str, Floats]]:
    """Rows, and columns as rows, at even distances: weights of a GPT-2 layer are stored (in, out)."""
    for shared, view in (("row", matrix), ("column", matrix.T)):
        rows = -(-weights // view.shape[1])
        chosen = np.unique(np.linspace(0, len(view) - 1, min(rows, len(view))).astype(int))
        yield shared, _floats(view[chosen])


def _layouts(matrix: Stored, weights: int) -> Iterator[tuple[str, Floats]]:
    """Which weights may share a scale, in words -> (groups, weights); the widest first."""
    samples = dict(_sampled(matrix, weights))
    yield "with one scale a matrix", samples["row"].reshape(1, -1)
    for shared, sample in samples.items():
        yield ONE_A_ROW if shared == "row" else "with one scale a column", sample
    if min(matrix.shape) >= BLOCK:
        yield f"in blocks of {BLOCK} x {BLOCK}", _blocks(matrix, BLOCKS if weights > FIRST else 1)
    for group in GROUPS:
        for shared, sample in samples.items():
            if sample.shape[1] > group:
                yield _in_groups(group, shared), _cut(sample, group)


def _in_groups(group: int, shared: str) -> str:
    return f"in groups of {group}" + (" of a column" if shared == "column" else "")


def _cut(sample: Floats, group: int) -> Floats:
    """The end of a row may hold fewer, and is left out."""
    whole = sample.shape[1] // group * group
    return sample[:, :whole].reshape(-1, group)


def _blocks(matrix: Stored, count: int) -> Floats:
    starts = np.unique(np.linspace(0, matrix.shape[1] // BLOCK - 1, count).astype(int)) * BLOCK
    return np.stack([_floats(matrix[:BLOCK, start : start + BLOCK]).ravel() for start in starts])


def _by_counts(matrix: Stored, weights: int) -> Grid | None:
    """By how few different values each group holds: the widest groups of at most 4 bits, of the fewest bits; else the
    widest whose levels have a name.

    In 8 bits wide groups go first: a group of 256 rarely takes all levels of an FP8 matrix. In 4 bits narrow ones do:
    the scales of a format may be so coarse that a whole matrix has few values.
    """
    layouts = dict(_layouts(matrix, weights))
    mantissa, wanted = mantissa_bits(next(iter(layouts.values()))), _wanted(weights)
    fitting = {shared: bits for shared, groups in layouts.items() if (bits := _bits_of(groups, mantissa, wanted))}
    if not fitting:
        return None
    shared, bits = min(fitting.items(), key=lambda item: item[1])
    if bits <= 4:
        return Grid(bits, shared, _levels(layouts[shared], bits, mantissa))
    grids = (Grid(bits, shared, _levels(layouts[shared], bits, mantissa)) for shared, bits in fitting.items())
    return next((grid for grid in grids if grid.levels), Grid(bits, shared, ""))


def _bits_of(groups: Floats, mantissa: int, wanted: float) -> int:
    """The fewest bits that number the different values of each group; 0 where chance may have made them few."""
    distinct, present = distinct_values(groups)
    most = int(distinct.max())
    bits = next((bits for bits in BITS if 3 <= most <= 2**bits), 0)
    is_known = bits and _is_dense(present, groups.shape[1], bits, mantissa)
    return bits if is_known and evidence_of_few(present, 2**bits, mantissa) >= wanted else 0


def _is_dense(present: NDArray[np.int64], weights: int, bits: int, mantissa: int) -> bool:
    """In bfloat16 one binade, both signs, holds as many values as 8 bits: what pruning leaves of a matrix may lie in
    one or two, and be no grid."""
    return bits < mantissa + 1 or 2 * int(present.min()) >= weights


def _by_levels(matrix: Stored, weights: int) -> Grid | None:
    """By the levels themselves, where a group is too narrow to hold repeats."""
    sample = dict(_sampled(matrix, weights))["row"]
    mantissa, wanted = mantissa_bits(sample), _wanted(weights)
    for bits, group in NARROW:
        if sample.shape[1] < group:
            continue
        groups = _cut(sample, group)
        for name, tables in level_tables(bits).items():
            # Of ordinary weights the first groups already lie beside the levels.
            is_possible = evidence_of_levels(groups[:FEW], tables, mantissa) > 0
            if is_possible and evidence_of_levels(groups, tables, mantissa) >= wanted:
                return Grid(bits, _in_groups(group, "row") if group < sample.shape[1] else ONE_A_ROW, name)
    return None


def _wanted(weights: int) -> float:
    """Nats of evidence; the first weights only decide whether more are read."""
    return ENOUGH_NATS if weights > FIRST else 1.0


def _levels(groups: Floats, bits: int, mantissa: int) -> str:
    """The name of the levels, "" for none that is known."""
    for name, tables in level_tables(bits).items():
        if evidence_of_levels(groups[:NAMED], tables, mantissa) > 0:
            return name
    return EVEN if is_evenly_spaced(groups[:NAMED], bits, mantissa) else ""
