"""Which replays share a micro-batch, how their tokens are padded, and in which forward passes they are read.

Pure: numpy arrays, no tensors. How replays are packed moves answers by rounding only; the noise battery of enrolment
measures by how much. Within a batch the base's rows come first and those of one adapter are adjacent: lora.py needs it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectors.records import FaultKind
from probes.artefacts.needed_memory import IN_ATTENTION
from probes.errors import Unreplayable
from probes.runner import BatchShape, Replay

RowAdapter = tuple[str | None, float]  # of one row: adapter (None: the base), and a multiple of its own scaling
# Faults in which another adapter, or the base, computes the prompt's key-value cache -> how many of the prompt's last
# tokens are still read by the target itself.
FOREIGN_CACHE = {FaultKind.WARMED: 1, FaultKind.PREFILLED: 0}
# Tokens that a pass over a shared beginning has to save: on a CPU a pass of its own costs about as much as a few dozen.
WORTH_SHARING = 48
# By so many tokens prompts are put beside those that begin alike.
BEGINNING = 16
# With so many rows a batch ends where the next text has another beginning, so that its own is still read once.
ENOUGH_ROWS = 4
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
class ForwardPass:
    """Columns [start, stop) of a batch that are read in one forward pass, and the adapter of each row in it.

    shared: of each row of the batch, which row of this pass reads these columns for it: one for all that begin alike
    under the same adapter; empty where each row of the batch is a row of the pass
    """

    start: int
    stop: int
    row_adapters: tuple[RowAdapter, ...]
    shared: tuple[int, ...] = ()

    @property
    def first_rows(self) -> tuple[int, ...]:
        """Of each row of a shared pass, the first row of the batch that it reads for."""
        return tuple(self.shared.index(row) for row in range(len(self.row_adapters)))

    def adapter_of(self, row: int) -> RowAdapter:
        """Which adapter reads these columns for a row of the batch."""
        return self.row_adapters[self.shared[row] if self.shared else row]


def lay_out(batch: Sequence[Replay], shape: BatchShape, continues: bool = True) -> tuple[Padded, list[ForwardPass]]:
    """The padded rows of a micro-batch, and the passes that read them in turn through the key-value cache.

    continues: can the model read several tokens at once after a cache? If not, they are read one at a time, and
    ``shape.chunk`` is ignored

    A beginning that all prompts share is read once for each adapter in the batch, and its cache used by all rows, where
    that saves much; not with padding on the left, and not in chunks.
    Where another adapter reads the prompts first (``FOREIGN_CACHE``) the rows are aligned where the reader changes,
    whatever ``shape`` says of padding and chunks.
    """
    texts = [(*replay.prompt, *replay.forced[:-1]) for replay in batch]
    row_adapters = tuple((replay.target.adapter, replay.target.scale) for replay in batch)
    if any(replay.target.fault for replay in batch):
        prompt_readers, cuts = zip(*map(_prompt_reader, batch), strict=True)
        rows, seam = aligned(texts, cuts), max(cuts)
        width = rows.ids.shape[1]
        own = [ForwardPass(seam, width, row_adapters)] if continues else _one_by_one(seam, width, row_adapters)
        return rows, [part for part in (ForwardPass(0, seam, prompt_readers), *own) if part.start < part.stop]
    rows = padded(texts, shape.left_pad)
    width = rows.ids.shape[1]
    if continues and not shape.left_pad and not shape.chunk and (beginning := _beginning(batch, row_adapters)):
        return rows, [beginning, ForwardPass(beginning.stop, width, row_adapters)]
    piece = shape.chunk if continues and 0 < shape.chunk < width else width
    return rows, [ForwardPass(at, min(at + piece, width), row_adapters) for at in range(0, width, piece)]


def _beginning(batch: Sequence[Replay], row_adapters: Sequence[RowAdapter]) -> ForwardPass | None:
    """The pass over what all prompts of the batch begin with, None where it would save little.

    The last token of a prompt is left to the next pass: it predicts the first forced one.
    """
    prompts = [replay.prompt for replay in batch]
    first, last = min(prompts), max(prompts)
    limit = min(map(len, prompts)) - 1
    cut = next((at for at in range(limit) if first[at] != last[at]), max(limit, 0))
    readers = tuple(dict.fromkeys(row_adapters))
    if not is_worth_sharing(cut, len(batch), len(readers)):
        return None
    return ForwardPass(0, cut, readers, tuple(readers.index(reader) for reader in row_adapters))


def _one_by_one(start: int, stop: int, row_adapters: tuple[RowAdapter, ...]) -> list[ForwardPass]:
    return [ForwardPass(at, at + 1, row_adapters) for at in range(start, stop)]


def _prompt_reader(replay: Replay) -> tuple[RowAdapter, int]:
    """The adapter that reads the first tokens of this replay, and how many it reads."""
    fault = replay.target.fault
    if fault is None:
        return (replay.target.adapter, replay.target.scale), len(replay.prompt)
    return (fault.name or None, 1.0), len(replay.prompt) - FOREIGN_CACHE[fault.kind]


def padded(texts: Sequence[Sequence[int]], left: bool) -> Padded:
    """Rows filled up to the longest with token 0 under a mask of 0, before the text when ``left``, else after it."""
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    return _placed(texts, lengths.max() - lengths if left else np.zeros_like(lengths))


def aligned(texts: Sequence[Sequence[int]], cuts: Sequence[int]) -> Padded:
    """Rows padded so that token number ``cuts[row]`` of each is in the same column: everything before that column can
    be read in one pass and the rest in the next."""
    offsets = np.array(cuts, dtype=np.int64)
    return _placed(texts, offsets.max() - offsets)


def _placed(texts: Sequence[Sequence[int]], starts: Longs) -> Padded:
    width = max(len(text) + int(start) for text, start in zip(texts, starts, strict=True))
    ids, mask = np.zeros((2, len(texts), width), dtype=np.int64)
    for row, (text, start) in enumerate(zip(texts, starts, strict=True)):
        ids[row, start : start + len(text)] = text
        mask[row, start : start + len(text)] = 1
    return Padded(ids, mask, np.maximum(mask.cumsum(axis=1) - 1, 0), starts)


def pack(replays: Sequence[Replay], shape: BatchShape, max_tokens: int, continues: bool = False) -> list[list[Replay]]:
    """Micro-batches of at most ``shape.rows`` rows and ``max_tokens`` tokens; a longer text is alone in its own.

    continues: as of ``lay_out``; what prompts begin with alike then counts once for each adapter of a batch

    Rows of one adapter go together, those that begin alike beside each other: a module then adds few updates, each of
    many tokens, and a beginning is read once for many rows. An adapter of few canaries shares a batch with the next
    ones. The largest batch comes first: what does not fit into memory shows at once. Within a batch the base's rows
    come first and those of one adapter are adjacent, as ``lora.row_groups`` needs them. Raises Unreplayable for a
    replay without a prompt: nothing predicts its first token.
    """
    if empty := [replay.canary for replay in replays if not replay.prompt]:
        raise Unreplayable(empty[0], "its prompt is empty, so nothing predicts its first token")
    shares = _shares(replays, shape, continues)
    filled: list[_Filled] = []
    for replay in _in_order(replays):
        longer = filled[-1].with_row(replay, shares) if filled else None
        if longer and len(longer.rows) <= shape.rows and longer.tokens <= max_tokens and not filled[-1].parts(longer):
            filled[-1] = longer
        else:
            filled.append(_Filled.of(replay))
    return [list(batch.rows) for batch in sorted(filled, key=lambda batch: -batch.tokens)]


def _in_order(replays: Sequence[Replay]) -> Iterator[Replay]:
    """By adapter, strength and beginning; from longest to shortest and back in turn, so that neighbours are alike in
    length where one group ends and the next begins: what is padded is read for nothing."""
    groups: dict[tuple[str, float, tuple[int, ...]], list[Replay]] = {}
    for replay in replays:
        key = replay.target.adapter or "", replay.target.scale, replay.prompt[:BEGINNING]
        groups.setdefault(key, []).append(replay)
    for number, key in enumerate(sorted(groups)):
        yield from sorted(groups[key], key=read_length, reverse=number % 2 == 0)


@dataclass(frozen=True, slots=True, eq=False)
class _Filled:
    """A batch while it is filled. cut: tokens that all its prompts begin with, but for the last one of each; readers:
    of a beginning; longest: tokens of a row that are read; shared: is the beginning read once for each reader?"""

    rows: tuple[Replay, ...]
    cut: int
    readers: frozenset[RowAdapter]
    longest: int
    shared: bool = False

    @classmethod
    def of(cls, replay: Replay) -> _Filled:
        reader = frozenset([(replay.target.adapter, replay.target.scale)])
        return cls((replay,), len(replay.prompt) - 1, reader, read_length(replay))

    @property
    def tokens(self) -> int:
        """Padded ones that are read."""
        return tokens_of_pass(len(self.rows), self.longest, self.cut if self.shared else 0, len(self.readers))

    def with_row(self, replay: Replay, shares: bool) -> _Filled:
        cut = min(self.cut, common_beginning(self.rows[0].prompt, replay.prompt, self.cut), len(replay.prompt) - 1)
        readers = self.readers | {(replay.target.adapter, replay.target.scale)}
        is_shared = shares and is_worth_sharing(cut, len(self.rows) + 1, len(readers))
        return _Filled((*self.rows, replay), cut, readers, max(self.longest, read_length(replay)), is_shared)

    def parts(self, longer: _Filled) -> bool:
        """Would another row end the sharing of a batch that is large enough?"""
        return self.shared and not longer.shared and len(self.rows) >= ENOUGH_ROWS


def _shares(replays: Sequence[Replay], shape: BatchShape, continues: bool) -> bool:
    return continues and not shape.left_pad and not shape.chunk and not any(r.target.fault for r in replays)


def common_beginning(first: Sequence[int], second: Sequence[int], most: int) -> int:
    """How many tokens both begin with, ``most`` at most."""
    if first[:most] == second[:most]:
        return min(most, len(first))
    pairs = enumerate(zip(first[:most], second[:most], strict=False))
    return next((at for at, (ours, theirs) in pairs if ours != theirs), min(len(first), len(second), most))


def tokens_of_pass(rows: int, longest: int, cut: int, readers: int = 1) -> int:
    """Padded tokens of the larger of two passes: over ``cut`` tokens that each reader reads once, and over the rest of
    each row, whose attention looks back at all of them. longest: tokens of a row, those included"""
    if not cut:
        return rows * longest
    return max(rows * (longest - cut), readers * cut, rows * longest // IN_ATTENTION)


def is_worth_sharing(cut: int, rows: int, readers: int) -> bool:
    """Does one pass over ``cut`` tokens for each reader save enough beside reading them in each row?"""
    return cut * (rows - readers) >= WORTH_SHARING


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
    """Indices of the prompts that are continued in one batch, longest first. limit: most tokens added to each."""
    batches: list[list[int]] = []
    for number in sorted(range(len(prompts)), key=lambda number: len(prompts[number]), reverse=True):
        longest = len(prompts[batches[-1][0]]) + limit if batches else 0
        if batches and len(batches[-1]) < rows and (len(batches[-1]) + 1) * longest <= max_tokens:
            batches[-1].append(number)
        else:
            batches.append([number])
    return batches


def read_length(replay: Replay) -> int:
    """Tokens that the model reads: the last forced token is only predicted."""
    return len(replay.prompt) + len(replay.forced) - 1
