"""One causal language model in memory with its adapters: reading it from files, and its forward passes.

This file and those it stands on (lora, adapter_files) import torch; ``agent`` reaches them only through a runner.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from detectors.records import Floats
from probes.adapter_files import to_torch
from probes.base_files import base_hash, tokenizer_hash
from probes.errors import Unreplayable
from probes.lora import Switchboard, grouped
from probes.packing import Padded, padded
from probes.replay import BatchShape, Replay, Replayed, Stop
from probes.summary import summarise_torch
from probes.tensors import RawTensor, digest, read_folder

# Logits of one head call, 256 MB in float32; a whole micro-batch over a large vocabulary would be gigabytes.
HEAD_CELLS = 64_000_000


@dataclass(frozen=True, slots=True)
class Placement:
    """Where and how a model runs. attention: transformers' name of the backend."""

    device: torch.device
    dtype: torch.dtype
    attention: str


@dataclass(frozen=True, slots=True, eq=False)
class BaseParts:
    """A base read from its folder but not yet built. hash: base_hash of exactly the bytes in ``tensors``."""

    folder: Path
    tensors: list[RawTensor]
    hash: str
    tokenizer: str


def read_base(folder: Path) -> BaseParts:
    """Read and hash a model folder. What is hashed is what is run: the files may change between two reads."""
    tensors = list(read_folder(folder))
    return BaseParts(folder, tensors, base_hash(folder, digest(tensors)), _tokenizer_hash(folder))


def _tokenizer_hash(folder: Path) -> str:
    try:
        return tokenizer_hash(folder)
    except Unreplayable:
        return ""  # a folder of weights alone can be replayed, by the golden tokenizer


def build(parts: BaseParts, placement: Placement) -> Model:
    """The model of these parts. Raises Unreplayable when tensors are missing, have other shapes, or memory is short."""
    transformers.utils.logging.disable_progress_bar()
    try:
        config = transformers.AutoConfig.from_pretrained(parts.folder, local_files_only=True)
        kind = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
        network, told = kind.from_pretrained(
            None,
            config=config,
            state_dict={item.name: to_torch(item) for item in parts.tensors},
            dtype=placement.dtype,
            attn_implementation=placement.attention,
            output_loading_info=True,
        )
    except Exception as error:  # a foreign config or torn tensors make the library raise almost anything
        raise Unreplayable(str(parts.folder), f"cannot be loaded: {error}") from error
    if lacking := sorted(told["missing_keys"]):
        raise Unreplayable(str(parts.folder), f"{len(lacking)} tensors are missing, first {lacking[0]}")
    try:
        network = network.to(placement.device).eval().requires_grad_(False)
        ends, plain = _ends(parts.folder, network), head_is_plain(network)
    except Exception as error:  # likewise: this is the first time that the model runs
        raise Unreplayable(str(parts.folder), f"cannot be run: {error}") from error
    return Model(parts.hash, parts.tokenizer, parts.folder, network, Switchboard(network), ends, plain)


def head_is_plain(network: Any) -> bool:
    """Are its logits the output layer's and nothing more? Models that cap or scale them have to use their own head.

    Tried once on a few tokens, which also shows that the model runs at all.
    """
    with torch.inference_mode():
        ids = torch.arange(min(4, network.config.vocab_size), device=network.device)[None]
        places = torch.arange(ids.shape[1], device=network.device)[None]
        states = network.base_model(input_ids=ids, position_ids=places, use_cache=False).last_hidden_state
        whole = network(input_ids=ids, position_ids=places, use_cache=False).logits
        return torch.allclose(network.get_output_embeddings()(states), whole, rtol=1e-3, atol=1e-3)


def _ends(folder: Path, network: Any) -> frozenset[int]:
    """Token ids that end a text: of generation_config.json where there is one, else of the config."""
    told = network.config.eos_token_id
    if (folder / "generation_config.json").is_file():
        told = transformers.GenerationConfig.from_pretrained(folder).eos_token_id or told
    return frozenset(told if isinstance(told, list) else [] if told is None else [told])


@contextmanager
def failures(path: str) -> Iterator[None]:
    """Turns what torch raises into Unreplayable with the first line of its reason; out of memory is among them."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise Unreplayable(path, f"cannot be run: {reason}") from error


@dataclass(slots=True, eq=False)
class Model:
    """A base and the adapters on its switchboard.

    hash: base_hash; tokenizer: tokenizer_hash or ""; ends: token ids that end a text; plain_head: see head_is_plain
    """

    hash: str
    tokenizer: str
    folder: Path
    network: Any
    adapters: Switchboard
    ends: frozenset[int]
    plain_head: bool

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

    def answer(self, batch: Sequence[Replay], shape: BatchShape) -> list[Replayed]:
        """One forward pass for a packed micro-batch. Raises Unreplayable when torch fails or runs out of memory."""
        self._check(token for replay in batch for token in (*replay.prompt, *replay.forced))
        for replay in batch:
            if replay.kept is not None and replay.kept.size and (highest := int(replay.kept.max())) >= self.width:
                raise Unreplayable(str(self.folder), f"token {highest} to keep is beyond its {self.width} logits")
        with failures(str(self.folder)), torch.inference_mode():
            rows = padded([(*r.prompt, *r.forced[:-1]) for r in batch], shape.left_pad)
            groups = grouped([(r.target.adapter, r.target.scale) for r in batch], self.device)
            with self.adapters.rows.answering(groups, len(batch)):
                states = self._states(rows, shape.chunk) if self.plain_head else self._logits(rows, shape.chunk)
            # Forced token i is predicted where the token before it was read.
            firsts = [int(start) + len(replay.prompt) - 1 for start, replay in zip(rows.starts, batch, strict=True)]
            scored = [states[row, at : at + len(batch[row].forced)] for row, at in enumerate(firsts)]
            return list(self._reduced(batch, scored))

    def pooled(self, texts: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[tuple[Floats, Floats]]:
        """Mean last hidden state of the base over prompt and over output positions; nan where a side has no tokens."""
        self._check(token for sides in texts for side in sides for token in side)
        with failures(str(self.folder)), torch.inference_mode():
            rows = padded([[*prompt, *output] for prompt, output in texts], left=False)
            states = self._states(rows, chunk=0).float()
            cuts = [len(prompt) for prompt, _ in texts]
            ends = [len(prompt) + len(output) for prompt, output in texts]
            sides = zip(states, cuts, ends, strict=True)
            return [(_mean(row[:cut]), _mean(row[cut:end])) for row, cut, end in sides]

    def greedy(self, adapter: str | None, scale: float, prompt: Sequence[int], limit: int, stop: Stop) -> Iterator[int]:
        """The most probable continuation token by token, up to an end of text (included) or ``limit``."""
        self._check(prompt)
        read, cache = list(prompt), transformers.DynamicCache(config=self.network.config)
        for _ in range(limit):
            if stop():
                return
            # Around each step, not the whole: a generator that waits must not leave the mode or the rows set.
            with failures(str(self.folder)), torch.inference_mode():
                groups = grouped([(adapter, scale)], self.device)
                with self.adapters.rows.answering(groups, 1):
                    ids = torch.tensor([read], device=self.device)
                    logits = self.network(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
                token = int(logits[0, -1].argmax())
            yield token
            if token in self.ends:
                return
            read = [token]

    def _states(self, rows: Padded, chunk: int) -> torch.Tensor:
        """(B, L, H) last hidden states, in one pass or in pieces of ``chunk`` tokens through the cache."""
        return self._passes(self.network.base_model, "last_hidden_state", rows, chunk)

    def _logits(self, rows: Padded, chunk: int) -> torch.Tensor:
        """(B, L, V) logits by the model's own head."""
        return self._passes(self.network, "logits", rows, chunk)

    def _passes(self, network: nn.Module, field: str, rows: Padded, chunk: int) -> torch.Tensor:
        ids, mask, positions = (torch.from_numpy(a).to(self.device) for a in (rows.ids, rows.mask, rows.positions))
        width = ids.shape[1]
        if not 0 < chunk < width:
            out = network(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
            return getattr(out, field)  # type: ignore[no-any-return]
        cache = transformers.DynamicCache(config=self.network.config)
        pieces = []
        for start in range(0, width, chunk):
            here = slice(start, min(start + chunk, width))
            out = network(
                input_ids=ids[:, here],
                attention_mask=mask[:, : here.stop],
                position_ids=positions[:, here],
                past_key_values=cache,
                use_cache=True,
            )
            pieces.append(getattr(out, field))
        return torch.cat(pieces, dim=1)

    def _reduced(self, batch: Sequence[Replay], scored: Sequence[torch.Tensor]) -> Iterator[Replayed]:
        """Log-probabilities in float32 of a few rows at a time, each reduced to what its replay asks for."""
        for rows in _within(HEAD_CELLS, [len(states) * self.vocabulary for states in scored]):
            some = torch.cat([scored[row] for row in rows])
            if self.plain_head:
                some = self._head(some, [batch[row] for row in rows])
            log_probs = some.float().log_softmax(dim=-1)
            for row, full in zip(rows, log_probs.split([len(scored[row]) for row in rows]), strict=True):
                yield _replayed(batch[row], full)

    def _head(self, states: torch.Tensor, batch: Sequence[Replay]) -> torch.Tensor:
        """(N, V) logits of the scored positions alone; they are the rows now, each of its replay's target."""
        targets = [(r.target.adapter, r.target.scale) for r in batch for _ in r.forced]
        with self.adapters.rows.answering(grouped(targets, self.device), len(states)):
            return self.network.get_output_embeddings()(states)  # type: ignore[no-any-return]

    def _check(self, tokens: Any) -> None:
        highest = max(tokens, default=0)
        if highest >= self.vocabulary:
            raise Unreplayable(str(self.folder), f"token {highest} is beyond its vocabulary of {self.vocabulary}")


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
