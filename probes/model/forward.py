"""One causal language model in memory with its adapters, and its forward passes; probes/model/build.py loads it.

This file and what it imports need torch; ``agent`` reaches them only through a runner. Numbers are held against PEFT
and against the model's own forward pass in tests/probes/model/.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

from detectors.records import Floats
from probes.artefacts.needed_memory import KEPT_BATCHES, MOST_LOGITS
from probes.canaries.log_prob_summary import SummaryTensors, stacked, summary_tensors
from probes.errors import Unreplayable
from probes.model.cache import Cache, KeptBeginnings, body_of, forward_with_cache, lent, new_cache, select_rows
from probes.model.free_memory import memory_errors
from probes.model.lora import AppliedAdapters, row_groups
from probes.model.packing import ForwardPass, Longs, Padded, RowAdapter, lay_out, padded
from probes.model.precision.kernels import FLOAT32
from probes.model.quantise import rounded_rows, with_weights
from probes.runner import BatchShape, Replay, Replayed, Stop, Target
from probes.scoring.token_distribution import FLOAT32 as SPACING_OF_FLOAT32


@dataclass(frozen=True, slots=True, eq=False)
class TokenBatch:
    """A batch's tokens on the device: (B, L) each, see ``packing.Padded``."""

    ids: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor

    def with_next(self, tokens: torch.Tensor) -> TokenBatch:
        """With one more token a row, (B,), after the last column."""
        unmasked, position = torch.ones_like(self.mask[:, :1]), self.positions[:, -1:] + 1
        columns = (self.ids, tokens[:, None]), (self.mask, unmasked), (self.positions, position)
        return TokenBatch(*(torch.cat(pair, dim=1) for pair in columns))

    def only(self, rows: torch.Tensor) -> TokenBatch:
        return TokenBatch(self.ids[rows], self.mask[rows], self.positions[rows])


@dataclass(slots=True, eq=False)
class Model:
    """A base and the adapters on it.

    hash: base_hash by the newest scheme; ends: token ids that end a text
    plain_head, continues: see invariance.py
    spacing: relative, between neighbouring numbers of the coarsest dtype that the files store; an engine computes in
    the files' dtype unless configured otherwise, also where this copy is in float32
    batch_tokens: padded tokens of one forward pass that there was memory for beside it when it was loaded
    beginnings: of responses that were read, kept for those to come
    kernel: name of that in which it is computed (probes/model/precision/kernels.py)
    """

    hash: str
    folder: Path
    network: Any
    adapters: AppliedAdapters
    ends: frozenset[int]
    plain_head: bool
    continues: bool = True
    spacing: float = SPACING_OF_FLOAT32
    batch_tokens: int = 2048
    beginnings: KeptBeginnings = field(default_factory=lambda: KeptBeginnings(KEPT_BATCHES * 2048))
    kernel: str = FLOAT32

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device  # type: ignore[no-any-return]

    @property
    def bytes(self) -> int:
        """Memory of its weights, without adapters."""
        tensors = (*self.network.parameters(), *self.network.buffers())
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    @property
    def vocabulary(self) -> int:
        """How many token ids there are; an id beyond it would make a CUDA context unusable instead of raising."""
        return int(self.network.get_input_embeddings().weight.shape[0])

    @property
    def width(self) -> int:
        """How many logits there are; some output layers are narrower than the embeddings."""
        return int(self.network.get_output_embeddings().weight.shape[0])

    def rounded(self, bits: int, group: int = 0) -> Model:
        """A copy with its weights in so many bits (quantise.py), with the same adapters on it."""
        rounding = partial(rounded_rows, bits=bits, group=group)
        return self.with_weights(rounding, f"to {bits} bits", f"{self.hash} in {bits} bits by {group}")

    def with_weights(self, rounding: Callable[[torch.Tensor], torch.Tensor], how: str, name: str) -> Model:
        """A copy with what ``rounding`` makes of its weights (quantise.py), with the same adapters on it. how: for the
        error; name: in place of a hash"""
        with memory_errors(str(self.folder)):
            network = with_weights(self.network, rounding, how)
            adapters = AppliedAdapters(network, rowwise=self.adapters.rowwise)
            beginnings = KeptBeginnings(self.beginnings.most_tokens)
            model = replace(self, hash=name, network=network, adapters=adapters, beginnings=beginnings)
            for adapter, applied in self.adapters.applied.items():
                model.adapters.apply(adapter, applied.adapter)
        return model

    def answer(self, batch: Sequence[Replay], shape: BatchShape) -> list[Replayed]:
        """A packed micro-batch, each row answered under the adapter of its target; on a prompt cache computed by
        another adapter where its fault is one of ``packing.FOREIGN_CACHE``. Raises Unreplayable when torch
        fails, NoMemory."""
        self._check(token for replay in batch for token in (*replay.prompt, *replay.forced))
        for replay in batch:
            if replay.kept is not None and replay.kept.size and (highest := int(replay.kept.max())) >= self.width:
                raise Unreplayable(str(self.folder), f"token {highest} to keep is beyond its {self.width} logits")
        with memory_errors(str(self.folder)), torch.inference_mode():
            rows, passes = lay_out(batch, shape, self.continues)
            states, first = self._states(rows, passes)
            # Forced token i is predicted where the token before it was read.
            firsts = [int(start) + len(replay.prompt) - 1 for start, replay in zip(rows.starts, batch, strict=True)]
            spans = [range(at, at + len(replay.forced)) for at, replay in zip(firsts, batch, strict=True)]
            scored = [states[row, span.start - first : span.stop - first] for row, span in enumerate(spans)]
            # By the output layer of the adapter that read the position: it may have saved one of its own.
            readers = [[_reader(passes, row, column) for column in span] for row, span in enumerate(spans)]
            return self._reduced(batch, scored, readers)

    def pooled(self, texts: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[tuple[Floats, Floats]]:
        """Mean last hidden state of the base over prompt and over output positions; nan where a side has no tokens."""
        self._check(token for sides in texts for side in sides for token in side)
        with memory_errors(str(self.folder)), torch.inference_mode():
            rows = padded([[*prompt, *output] for prompt, output in texts], left=False)
            whole = ForwardPass(0, rows.ids.shape[1], ((None, 1.0),) * len(texts))
            states = self._states(rows, [whole])[0].float()
            cuts = [len(prompt) for prompt, _ in texts]
            ends = [len(prompt) + len(output) for prompt, output in texts]
            sides = zip(states, cuts, ends, strict=True)
            return [(_mean(row[:cut]), _mean(row[cut:end])) for row, cut, end in sides]

    def greedy(
        self, target: Target, prompts: Sequence[Sequence[int]], limit: int, stop: Stop
    ) -> Iterator[dict[int, int]]:
        """Greedy continuations of all prompts in one batch, up to an end of text (included) or ``limit`` tokens.

        Each step yields prompt index -> its next token; prompts that have ended are left out and cost nothing more.
        """
        self._check(token for prompt in prompts for token in prompt)
        if not all(prompts):
            raise Unreplayable(str(self.folder), "a prompt is empty, so nothing predicts its first token")
        replays = [Replay("", tuple(prompt), (0,), target) for prompt in prompts]
        rows, passes = lay_out(replays, BatchShape(left_pad=True))
        tokens, cache = self._on_device(rows), new_cache(self.network)
        unfinished = list(range(len(prompts)))
        for _ in range(limit):
            if stop():
                return
            # Around each step, not the whole: a suspended generator must not leave inference mode or the rows set.
            with memory_errors(str(self.folder)), torch.inference_mode():
                for one_pass in passes:
                    logits = self._pass(self.network, tokens, one_pass, cache, logits_to_keep=1).logits
                chosen = logits[:, -1].argmax(dim=-1)
            step = chosen.tolist()
            yield dict(zip(unfinished, step, strict=True))
            going_on = [row for row, token in enumerate(step) if token not in self.ends]
            if not going_on:
                return
            with memory_errors(str(self.folder)), torch.inference_mode():
                tokens = tokens.with_next(chosen)
                if len(going_on) < len(unfinished):
                    rest = torch.tensor(going_on, device=self.device)
                    select_rows(cache, rest)
                    tokens, unfinished = tokens.only(rest), [unfinished[row] for row in going_on]
            width = tokens.ids.shape[1]
            passes = [ForwardPass(width - 1, width, ((target.adapter, target.scale),) * len(unfinished))]

    def head(self, states: torch.Tensor, readers: Sequence[RowAdapter]) -> torch.Tensor:
        """(N, V) logits of these positions; states: (N, H); readers: of each position, the adapter that read it"""
        layer = self.network.get_output_embeddings()
        with self.adapters.for_pass(layer, row_groups(readers, self.device), len(states)):
            if self.plain_head:
                return layer(states)  # type: ignore[no-any-return]
            return own_head(self.network, states)

    def _states(self, rows: Padded, passes: Sequence[ForwardPass]) -> tuple[torch.Tensor, int]:
        """(B, L, H) last hidden states from a column on, and that column, in one pass or in several through the cache.
        Not of a beginning that one row reads for several: it ends before the first token that is scored."""
        cache = new_cache(self.network) if len(passes) > 1 else None
        tokens = self._on_device(rows)
        body = getattr(self.network, body_of(self.network))
        pieces, first = [], 0
        for one_pass in passes:
            if one_pass.shared and cache is not None:
                cache, first = self._shared_pass(body, tokens, one_pass, cache), one_pass.stop
            else:
                pieces.append(self._pass(body, tokens, one_pass, cache).last_hidden_state)
        return (pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)), first

    def _shared_pass(self, body: nn.Module, tokens: TokenBatch, one_pass: ForwardPass, cache: Cache) -> Cache:
        """The cache of columns that one row reads for several, from which each row of the batch goes on once."""
        first_rows, of_row = (self._moved(np.array(rows)) for rows in (one_pass.first_rows, one_pass.shared))
        self._pass(body, tokens.only(first_rows), one_pass, cache)
        return lent(cache, of_row, one_pass.stop)

    def _pass(
        self, network: nn.Module, tokens: TokenBatch, one_pass: ForwardPass, cache: Cache | None, **more: Any
    ) -> Any:
        """The network's output for the columns of one pass. cache: holds the columns before them, and gets these; None
        for no cache"""
        columns = slice(one_pass.start, one_pass.stop)
        groups = row_groups(one_pass.row_adapters, self.device)
        with self.adapters.for_pass(network, groups, len(one_pass.row_adapters), columns.stop - columns.start):
            ids, positions = tokens.ids[:, columns], tokens.positions[:, columns]
            return forward_with_cache(network, ids, tokens.mask[:, : columns.stop], positions, cache, **more)

    def _on_device(self, rows: Padded) -> TokenBatch:
        return TokenBatch(*map(self._moved, (rows.ids, rows.mask, rows.positions)))

    def _moved(self, array: Longs) -> torch.Tensor:
        """On the device, where its queue of work is not waited for."""
        return torch.from_numpy(array).to(self.device, non_blocking=True)

    def _reduced(
        self, batch: Sequence[Replay], scored: Sequence[torch.Tensor], readers: Sequence[Sequence[RowAdapter]]
    ) -> list[Replayed]:
        """Logits in float32 of a few rows at a time, each reduced to what its replay asks for. Summaries stay on the
        device until all of them are on their way: a copy waits for everything before it."""
        summaries: list[tuple[list[int], SummaryTensors]] = []
        answers: dict[int, Replayed] = {}
        for rows in _within(MOST_LOGITS, [len(states) * self.vocabulary for states in scored]):
            states = torch.cat([scored[row] for row in rows])
            logits = self.head(states, [reader for row in rows for reader in readers[row]]).float()
            kept_ids = [ids for row in rows if (ids := batch[row].kept) is not None]
            if len(kept_ids) == len(rows):
                summaries.append((rows, summary_tensors(logits, self._moved(stacked(kept_ids)))))
                continue
            parts = logits.log_softmax(dim=-1).split([len(scored[row]) for row in rows])
            answers |= {
                row: Replayed(batch[row], None, full.cpu().numpy()) for row, full in zip(rows, parts, strict=True)
            }
        for rows, tensors in summaries:
            on_host, at = tensors.on_host(), 0
            for row in rows:
                ids, n = batch[row].kept, len(scored[row])
                assert ids is not None
                answers[row] = Replayed(batch[row], on_host.part(slice(at, at + n), ids.shape[1]))
                at += n
        return [answers[row] for row in range(len(batch))]

    def _check(self, tokens: Iterable[int]) -> None:
        highest = max(tokens, default=0)
        if highest >= self.vocabulary:
            raise Unreplayable(str(self.folder), f"token {highest} is beyond its vocabulary of {self.vocabulary}")


class _PrecomputedBody(nn.Module):
    """Replaces a network's body, and returns hidden states that the body computed earlier."""

    def __init__(self, states: torch.Tensor) -> None:
        super().__init__()
        self.states = states

    def forward(self, *_: Any, **__: Any) -> Any:
        # The output type with the most fields: heads read the fields of their own body's output type.
        return transformers.modeling_outputs.MoeModelOutputWithPast(last_hidden_state=self.states)


def own_head(network: Any, states: torch.Tensor) -> torch.Tensor:
    """(N, V) logits by everything that the network does after its body, such as capping or scaling. states: (N, H)

    Needs exclusive use of the network: its body is replaced meanwhile.
    """
    attribute = body_of(network)
    body = getattr(network, attribute)
    setattr(network, attribute, _PrecomputedBody(states[:, None]))
    try:
        logits: torch.Tensor = network(inputs_embeds=states[:, None], use_cache=False).logits
    finally:
        setattr(network, attribute, body)
    return logits[:, 0]


def _reader(passes: Sequence[ForwardPass], row: int, column: int) -> RowAdapter:
    return next(one_pass.adapter_of(row) for one_pass in passes if column < one_pass.stop)


def _mean(states: torch.Tensor) -> Floats:
    return states.mean(dim=0).cpu().numpy()  # type: ignore[no-any-return]


def _within(limit: int, sizes: Sequence[int]) -> Iterator[list[int]]:
    """Indices in order, split so that each part stays under ``limit``; a larger one is alone in its part."""
    part: list[int] = []
    for row, size in enumerate(sizes):
        if part and sum(sizes[i] for i in part) + size > limit:
            yield part
            part = []
        part.append(row)
    if part:
        yield part
