"""Which replays share a forward pass, and how their tokens lie in it. Pure: arrays, no tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectors.records import FaultKind
from probes.errors import Unreplayable
from probes.runner import BatchShape, Replay

Voice = tuple[str | None, float]  # an adapter (None: the base) and the multiple of its own scaling
# Faults in which another one reads the prompt -> how many of its last tokens are still read by the target itself.
OTHERS_CACHE = {FaultKind.WARMED: 1, FaultKind.PREFILLED: 0}
Longs = NDArray[np.int64]
Texts = Sequence[tuple[Sequence[int], Sequence[int]]]


@dataclass(frozen=True, slots=True, eq=False)
class Padded:
    """Token rows of one length. ids, positions, mask: (B, L) int64, mask 1 on text; starts: (B,) of each text."""

    ids: Longs
    mask: Longs
    positions: Longs
    starts: Longs


@dataclass(frozen=True, slots=True)
class PassColumns:
    """Columns [start, stop) that are read in one forward pass, and who reads each row there."""

    start: int
    stop: int
    voices: tuple[Voice, ...]


def laid_out(batch: Sequence[Replay], shape: BatchShape, continues: bool = True) -> tuple[Padded, list[PassColumns]]:
    """The rows of a micro-batch, and the passes that read them one after the other through the cache.

    continues: can the model go on from a cache with several tokens at once? Without, it takes one by one, and chunks
    are left out

    Where another one reads the prompts first (``OTHERS_CACHE``) the rows are aligned at that seam, whatever ``shape``
    says of padding and chunks.
    """
    texts = [(*replay.prompt, *replay.forced[:-1]) for replay in batch]
    voices = tuple((replay.target.adapter, replay.target.scale) for replay in batch)
    if any(replay.target.fault for replay in batch):
        readers, cuts = zip(*map(_first_reader, batch), strict=True)
        rows, seam = aligned(texts, cuts), max(cuts)
        width = rows.ids.shape[1]
        own = [PassColumns(seam, width, voices)] if continues else _one_by_one(seam, width, voices)
        return rows, [part for part in (PassColumns(0, seam, readers), *own) if part.start < part.stop]
    rows = padded(texts, shape.left_pad)
    width = rows.ids.shape[1]
    piece = shape.chunk if continues and 0 < shape.chunk < width else width
    return rows, [PassColumns(at, min(at + piece, width), voices) for at in range(0, width, piece)]


def _one_by_one(start: int, stop: int, voices: tuple[Voice, ...]) -> list[PassColumns]:
    return [PassColumns(at, at + 1, voices) for at in range(start, stop)]


def _first_reader(replay: Replay) -> tuple[Voice, int]:
    """Who reads the first tokens of this replay, and how many."""
    fault = replay.target.fault
    if fault is None:
        return (replay.target.adapter, replay.target.scale), len(replay.prompt)
    return (fault.name or None, 1.0), len(replay.prompt) - OTHERS_CACHE[fault.kind]


def padded(texts: Sequence[Sequence[int]], left: bool) -> Padded:
    """Rows filled up to the longest with token 0 under a mask of 0, before the text when ``left``, else after it."""
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    return _laid(texts, lengths.max() - lengths if left else np.zeros_like(lengths))


def aligned(texts: Sequence[Sequence[int]], cuts: Sequence[int]) -> Padded:
    """Rows whose token number ``cuts[row]`` lies in one column, that of the longest cut: what comes before it can be
    read in one pass and the rest in the next."""
    places = np.array(cuts, dtype=np.int64)
    return _laid(texts, places.max() - places)


def _laid(texts: Sequence[Sequence[int]], starts: Longs) -> Padded:
    width = max(len(text) + int(start) for text, start in zip(texts, starts, strict=True))
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


def pack_prompts(prompts: Sequence[Sequence[int]], limit: int, max_tokens: int, rows: int = 32) -> list[list[int]]:
    """Numbers of the prompts that are continued side by side, longest first. limit: tokens that each may grow by."""
    batches: list[list[int]] = []
    for number in sorted(range(len(prompts)), key=lambda number: len(prompts[number]), reverse=True):
        longest = len(prompts[batches[-1][0]]) + limit if batches else 0
        if batches and len(batches[-1]) < rows and (len(batches[-1]) + 1) * longest <= max_tokens:
            batches[-1].append(number)
        else:
            batches.append([number])
    return batches


def read_length(replay: Replay) -> int:
    """Tokens that are read: the last forced one is only predicted."""
    return len(replay.prompt) + len(replay.forced) - 1


def _tokens(batch: Sequence[Replay], one_more: Replay) -> int:
    return (len(batch) + 1) * max(read_length(batch[0]), read_length(one_more))
