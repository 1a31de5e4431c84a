"""The low-rank updates of many adapters on one module by two grouped products, whatever their number.

One adapter after the other, each module launches a few small kernels an adapter, which a card runs faster than they can
be launched. Here the matrices of a pass are stacked for the time of one call. Source: torch.nn.functional.grouped_mm,
whose fast kernels are those of bfloat16 with rows of a multiple of 16 bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch.nn import functional

from probes.model.adapter_parts.low_rank import LowRank
from probes.model.adapter_parts.wrapped_call import Part, RowGroup, WrappedCall

# Fewer adapters in a pass are as fast one after the other.
MANY = 4
ALIGNED = 8  # numbers of bfloat16 in 16 bytes


def is_faster(call: WrappedCall, parts: Sequence[Sequence[Part]]) -> bool:
    """Is this pass one that grouped kernels are made for?"""
    if len(parts) < MANY or not call.y.is_cuda or call.y.dtype is not torch.bfloat16:
        return False
    ranks = {len(part.update.a) for own in parts for part in own if isinstance(part, LowRank)}
    return all(rank % ALIGNED == 0 for rank in ranks)


def add_grouped(call: WrappedCall, groups: Sequence[RowGroup], parts: Sequence[Sequence[Part]]) -> bool:
    """Add the updates of all groups to ``call.y``; else no: where one of them is more than a low-rank update, or they
    differ in rank. groups: adjacent ones; parts: of each group's adapter on this module"""
    single = [own[0] for own in parts if len(own) == 1 and isinstance(own[0], LowRank) and own[0].is_plain]
    is_alike = len({(part.update.a.shape, part.update.a.dtype, part.update.b.dtype) for part in single}) == 1
    rows = slice(groups[0].start, groups[-1].stop)
    x, y = call.x[rows], call.y[rows]
    if len(single) < len(parts) or not is_alike or not y.is_contiguous() or y.dtype != single[0].update.b.dtype:
        return False
    if any(before.stop != after.start for before, after in pairwise(groups)):
        return False
    each = y[0].numel() // y.shape[-1]
    ends = torch.tensor([(group.stop - rows.start) * each for group in groups], dtype=torch.int32)
    ends = ends.to(y.device, non_blocking=True)
    first, second = (torch.stack([getattr(part.update, name) for part in single]) for name in ("a", "b"))
    flat = x.reshape(-1, x.shape[-1]).to(first.dtype)
    narrow = functional.grouped_mm(flat, first.transpose(1, 2), offs=ends) * _scaling(groups, single, each, y)
    y.view(-1, y.shape[-1]).add_(functional.grouped_mm(narrow, second.transpose(1, 2), offs=ends))
    return True


def _scaling(groups: Sequence[RowGroup], parts: Sequence[LowRank], each: int, y: torch.Tensor) -> torch.Tensor | float:
    """Of every token, (tokens, 1), or one number for all."""
    factors = [part.update.scaling * m for group, part in zip(groups, parts, strict=True) for m in group.multiples]
    if len(set(factors)) == 1:
        return factors[0]
    of_rows = torch.tensor(factors, dtype=y.dtype).to(y.device, non_blocking=True)
    return of_rows.repeat_interleave(each)[:, None]
