"""One causal language model in memory with its adapters, and its forward passes; probes/model/build.py makes it from
files.

This file and those it stands on (lora, adapter_files) import torch; ``agent`` reaches them only through a runner.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from detectors.records import Floats
from probes.canaries.log_prob_summary import summarise_torch
from probes.errors import Unreplayable
from probes.model.cache import Cache, body_of, new_cache, read_on, taken
from probes.model.lora import Switchboard, grouped
from probes.model.memory import failures
from probes.model.packing import Padded, PassColumns, Voice, laid_out, padded
from probes.model.quantise import quantised
from probes.runner import BatchShape, Replay, Replayed, Stop, Target

# Logits of one head call, 256 MB in float32; a whole micro-batch over a large vocabulary would be gigabytes.
HEAD_CELLS = 64_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Text:
    """A batch's tokens on the device: (B, L) each, see ``packing.Padded``."""

    ids: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor

    def grown(self, tokens: torch.Tensor) -> Text:
        """With one more token a row, (B,), after all columns there are."""
        one, after = torch.ones_like(self.mask[:, :1]), self.positions[:, -1:] + 1
        grown = (self.ids, tokens[:, None]), (self.mask, one), (self.positions, after)
        return Text(*(torch.cat(pair, dim=1) for pair in grown))

    def only(self, rows: torch.Tensor) -> Text:
        return Text(self.ids[rows], self.mask[rows], self.positions[rows])


@dataclass(slots=True, eq=False)
class Model:
    """A base and the adapters on its switchboard.

    hash: base_hash by the newest scheme; ends: token ids that end a text
    plain_head, continues: see trial.py
    """

    hash: str
    folder: Path
    network: Any
    adapters: Switchboard
    ends: frozenset[int]
    plain_head: bool
    continues: bool = True

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device  # type: ignore[no-any-return]

    @property
    def vocabulary(self) -> int:
        """How many token ids there are; an id beyond it would poison a CUDA context instead of raising."""
        return int(self.network.get_input_embeddings().weight.shape[0])

    @property
    def width(self) -> int:
        """How many logits there are; some heads are narrower than the embeddings."""
        return int(self.network.get_output_embeddings().weight.shape[0])

    def rounded(self, bits: int, group: int = 0) -> Model:
        """This model with its weights in so many bits (quantise.py), the adapters on it as they are here."""
        with failures(str(self.folder)):
            twin = quantised(self.network, bits, group)
            name = f"{self.hash} in {bits} bits by {group}"
            board = Switchboard(twin, rowwise=self.adapters.rowwise)
            model = Model(name, self.folder, twin, board, self.ends, self.plain_head, self.continues)
            for adapter, fitted in self.adapters.fitted.items():
                model.adapters.fit(adapter, fitted.adapter)
        return model

    def answer(self, batch: Sequence[Replay], shape: BatchShape) -> list[Replayed]:
        """A packed micro-batch, each row by the adapter of its target, on a cache that another one left if its fault is
        one of ``packing.OTHERS_CACHE``. Raises Unreplayable when torch fails or runs out of memory."""
        self._check(token for replay in batch for token in (*replay.prompt, *replay.forced))
        for replay in batch:
            if replay.kept is not None and replay.kept.size and (highest := int(replay.kept.max())) >= self.width:
                raise Unreplayable(str(self.folder), f"token {highest} to keep is beyond its {self.width} logits")
        with failures(str(self.folder)), torch.inference_mode():
            rows, stretches = laid_out(batch, shape, self.continues)
            states = self._states(rows, stretches)
            # Forced token i is predicted where the token before it was read.
            firsts = [int(start) + len(replay.prompt) - 1 for start, replay in zip(rows.starts, batch, strict=True)]
            spans = [range(at, at + len(replay.forced)) for at, replay in zip(firsts, batch, strict=True)]
            scored = [states[row, span.start : span.stop] for row, span in enumerate(spans)]
            # The head, too, is the reader's: an adapter may have one of its own.
            voices = [[_reader(stretches, row, column) for column in span] for row, span in enumerate(spans)]
            return list(self._reduced(batch, scored, voices))

    def pooled(self, texts: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[tuple[Floats, Floats]]:
        """Mean last hidden state of the base over prompt and over output positions; nan where a side has no tokens."""
        self._check(token for sides in texts for side in sides for token in side)
        with failures(str(self.folder)), torch.inference_mode():
            rows = padded([[*prompt, *output] for prompt, output in texts], left=False)
            states = self._states(rows, [PassColumns(0, rows.ids.shape[1], ((None, 1.0),) * len(texts))]).float()
            cuts = [len(prompt) for prompt, _ in texts]
            ends = [len(prompt) + len(output) for prompt, output in texts]
            sides = zip(states, cuts, ends, strict=True)
            return [(_mean(row[:cut]), _mean(row[cut:end])) for row, cut, end in sides]

    def greedy(
        self, target: Target, prompts: Sequence[Sequence[int]], limit: int, stop: Stop
    ) -> Iterator[dict[int, int]]:
        """The most probable continuations side by side, up to an end of text (included) or ``limit``.

        Each step yields prompt number -> its next token; prompts that have ended are left out and cost nothing more.
        """
        self._check(token for prompt in prompts for token in prompt)
        if not all(prompts):
            raise Unreplayable(str(self.folder), "a prompt is empty, so nothing predicts its first token")
        asked = [Replay("", tuple(prompt), (0,), target) for prompt in prompts]
        rows, stretches = laid_out(asked, BatchShape(left_pad=True))
        text, cache = self._text(rows), new_cache(self.network)
        alive = list(range(len(prompts)))
        for _ in range(limit):
            if stop():
                return
            # Around each step, not the whole: a generator that waits must not leave the mode or the rows set.
            with failures(str(self.folder)), torch.inference_mode():
                for stretch in stretches:
                    logits = self._pass(self.network, text, stretch, cache, logits_to_keep=1).logits
                tokens = logits[:, -1].argmax(dim=-1)
            step = tokens.tolist()
            yield dict(zip(alive, step, strict=True))
            going = [row for row, token in enumerate(step) if token not in self.ends]
            if not going:
                return
            with failures(str(self.folder)), torch.inference_mode():
                text = text.grown(tokens)
                if len(going) < len(alive):
                    rest = torch.tensor(going, device=self.device)
                    taken(cache, rest)
                    text, alive = text.only(rest), [alive[row] for row in going]
            width = text.ids.shape[1]
            stretches = [PassColumns(width - 1, width, ((target.adapter, target.scale),) * len(alive))]

    def head(self, states: torch.Tensor, voices: Sequence[Voice]) -> torch.Tensor:
        """(N, V) logits of these positions alone, (N, H) states; they are the rows now, each of who read it."""
        with self.adapters.rows.answering(grouped(voices, self.device), len(states)):
            if self.plain_head:
                return self.network.get_output_embeddings()(states)  # type: ignore[no-any-return]
            return own_head(self.network, states)

    def _states(self, rows: Padded, stretches: Sequence[PassColumns]) -> torch.Tensor:
        """(B, L, H) last hidden states, in one pass or stretch by stretch through the cache."""
        one = len(stretches) == 1
        cache = None if one else new_cache(self.network)
        text = self._text(rows)
        body = getattr(self.network, body_of(self.network))
        pieces = [self._pass(body, text, stretch, cache).last_hidden_state for stretch in stretches]
        return pieces[0] if one else torch.cat(pieces, dim=1)

    def _pass(self, network: nn.Module, text: Text, stretch: PassColumns, cache: Cache | None, **more: Any) -> Any:
        """What the network says to the columns of one stretch. cache: holds those before it, and these after it; None
        for no cache"""
        here = slice(stretch.start, stretch.stop)
        groups = grouped(stretch.voices, self.device)
        with self.adapters.rows.answering(groups, len(stretch.voices), here.stop - here.start):
            return read_on(
                network, text.ids[:, here], text.mask[:, : here.stop], text.positions[:, here], cache, **more
            )

    def _text(self, rows: Padded) -> Text:
        return Text(*(torch.from_numpy(array).to(self.device) for array in (rows.ids, rows.mask, rows.positions)))

    def _reduced(
        self, batch: Sequence[Replay], scored: Sequence[torch.Tensor], voices: Sequence[Sequence[Voice]]
    ) -> Iterator[Replayed]:
        """Log-probabilities in float32 of a few rows at a time, each reduced to what its replay asks for."""
        for rows in _within(HEAD_CELLS, [len(states) * self.vocabulary for states in scored]):
            states = torch.cat([scored[row] for row in rows])
            log_probs = self.head(states, [voice for row in rows for voice in voices[row]]).float().log_softmax(dim=-1)
            for row, full in zip(rows, log_probs.split([len(scored[row]) for row in rows]), strict=True):
                yield _replayed(batch[row], full)

    def _check(self, tokens: Iterable[int]) -> None:
        highest = max(tokens, default=0)
        if highest >= self.vocabulary:
            raise Unreplayable(str(self.folder), f"token {highest} is beyond its vocabulary of {self.vocabulary}")


class _Given(nn.Module):
    """Stands where a network's body is, and hands over states that the body gave before."""

    def __init__(self, states: torch.Tensor) -> None:
        super().__init__()
        self.states = states

    def forward(self, *_: Any, **__: Any) -> Any:
        # The widest of the answers that bodies give: heads look for what theirs gives.
        return transformers.modeling_outputs.MoeModelOutputWithPast(last_hidden_state=self.states)


def own_head(network: Any, states: torch.Tensor) -> torch.Tensor:
    """(N, V) logits by all that the network does after its body, capped or scaled as it has it. states: (N, H)

    Only for whoever has the network to himself: the body is away meanwhile.
    """
    place = body_of(network)
    body = getattr(network, place)
    setattr(network, place, _Given(states[:, None]))
    try:
        logits: torch.Tensor = network(inputs_embeds=states[:, None], use_cache=False).logits
    finally:
        setattr(network, place, body)
    return logits[:, 0]


def _reader(stretches: Sequence[PassColumns], row: int, column: int) -> Voice:
    return next(stretch.voices[row] for stretch in stretches if column < stretch.stop)


def _replayed(replay: Replay, full: torch.Tensor) -> Replayed:
    if replay.kept is None:
        return Replayed(replay, None, full.cpu().numpy())
    return Replayed(replay, summarise_torch(full, replay.kept))


def _mean(states: torch.Tensor) -> Floats:
    return states.mean(dim=0).cpu().numpy()  # type: ignore[no-any-return]


def _within(limit: int, sizes: Sequence[int]) -> Iterator[list[int]]:
    """Indices in order, split so that each part stays under ``limit``; one that is larger stands alone."""
    part: list[int] = []
    for row, size in enumerate(sizes):
        if part and sum(sizes[i] for i in part) + size > limit:
            yield part
            part = []
        part.append(row)
    if part:
        yield part
