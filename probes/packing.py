"""Which replays share a forward pass, and how their tokens lie in it. Pure: arrays, no tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probes.errors import Unreplayable
from probes.replay import BatchShape, Replay

Longs = NDArray[np.int64]
Texts = Sequence[tuple[Sequence[int], Sequence[int]]]


@dataclass(frozen=True, slots=True, eq=False)
class Padded:
    """Token rows of one length. ids, positions, mask: (B, L) int64, mask 1 on text; starts: (B,) of each text."""

    ids: Longs
    mask: Longs
    positions: Longs
    starts: Longs


def padded(texts: Sequence[Sequence[int]], left: bool) -> Padded:
    """Rows filled up to the longest with token 0 under a mask of 0, before the text when ``left``, else after it."""
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    width = int(lengths.max())
    starts = width - lengths if left else np.zeros_like(lengths)
    ids, mask = np.zeros((2, len(texts), width), dtype=np.int64)
    for row, (text, start) in enumerate(zip(texts, starts, strict=True)):
        ids[row, start : start + len(text)] = text
        mask[row, start : start + len(text)] = 1
    return Padded(ids, mask, np.maximum(mask.cumsum(axis=1) - 1, 0), starts)


def pack(replays: Sequence[Replay], shape: BatchShape, max_tokens: int) -> list[list[Replay]]:
    """Micro-batches of at most ``shape.rows`` rows and ``max_tokens`` padded tokens, a longer text alone in its own.

    Longest first: little padding, and what does not fit into memory is known at once. Within a batch the base's rows
    come first and those of one adapter lie together, as ``lora.grouped`` wants them. Raises Unreplayable for a replay
    without a prompt: nothing predicts its first token.
    """
    if empty := [replay.canary for replay in replays if not replay.prompt]:
        raise Unreplayable(empty[0], "its prompt is empty, so nothing predicts its first token")
    batches: list[list[Replay]] = []
    for replay in sorted(replays, key=read_length, reverse=True):
        if batches and len(batches[-1]) < shape.rows and _tokens(batches[-1], replay) <= max_tokens:
            batches[-1].append(replay)
        else:
            batches.append([replay])
    return [sorted(batch, key=lambda replay: replay.target.adapter or "") for batch in batches]


def pack_texts(texts: Texts, max_tokens: int, rows: int = 16) -> Iterator[Texts]:
    """Pairs (prompt, output) in batches, in the order given, so that a stop leaves a prefix."""
    start = 0
    while start < len(texts):
        stop, longest = start, 0
        while stop < min(len(texts), start + rows):
            longest = max(longest, sum(map(len, texts[stop])))
            if stop > start and longest * (stop - start + 1) > max_tokens:
                break
            stop += 1
        yield texts[start:stop]
        start = stop


def read_length(replay: Replay) -> int:
    """Tokens that are read: the last forced one is only predicted."""
    return len(replay.prompt) + len(replay.forced) - 1


def _tokens(batch: Sequence[Replay], one_more: Replay) -> int:
    return (len(batch) + 1) * max(read_length(batch[0]), read_length(one_more))
