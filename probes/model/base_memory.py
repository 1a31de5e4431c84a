"""How much memory a base needs, from the headers of its files, before its weights are read.

Upper bounds: what might not fit is refused before it is read, because beyond a container's limit no error is raised and
the process is killed. benchmarks/process/base_memory.py measures how far above the peak they are; a test holds that
they are not below it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from probes.artefacts.architecture import architecture, quantisation
from probes.artefacts.safetensors_header import BITS, TensorEntry, read_entries, weight_files
from probes.errors import NoMemory
from probes.model.build import AUTO, Placement
from probes.model.device_memory import Card, check_available
from probes.model.forward import MOST_LOGITS

# What libraries take for good when a first model is loaded and run, and what modules without weights take.
LIBRARIES_BYTES = 64_000_000
# In memory, for each byte of the tokenizer's files: its tables, and their parsed text while they are read.
TOKENIZER = 12
HALF_KINDS = {"BF16", "F16"}
FLOATS = {"F64", "F32", *HALF_KINDS}
# Stored apart in the file, and stacked into one tensor of the layer while the model is built.
STACKED = re.compile(r"\.experts\.\d+\.")
# Copies of the hidden states, and of the states between the two halves of a feed-forward layer, that are alive at once.
HIDDEN, BETWEEN = 10, 4
# Of one canary at most, whose logits are computed together; enrolment makes 40 by default (max_new_tokens).
FORCED = 128
HEADS = "num_attention_heads"
# No batch is made smaller than this to fit: as many tokens as a usual canary has, prompt and answer.
LEAST_BATCH = 256


@dataclass(frozen=True, slots=True)
class BaseMemory:
    """Bytes. weights: as they are computed with; tokenizer: on the host; loading: on the host, beside both, at the
    worst moment of loading; replay: beside the weights while one batch is answered

    on_device: do the weights answer in the memory of a device of its own, where they go once they are built?
    """

    weights: int
    tokenizer: int
    loading: int
    replay: int
    on_device: bool = False

    @property
    def held(self) -> int:
        """Of the host, once it is loaded there."""
        return self.weights + self.tokenizer

    @property
    def needed(self) -> int:
        """Of the host, to load it and, where that is done there, to answer with it."""
        return self.held + max(self.loading, 0 if self.on_device else self.replay)

    @property
    def needed_on_device(self) -> int:
        """To hold it there and to answer with it; 0 where there is no such device."""
        return self.weights + self.replay if self.on_device else 0


@dataclass(frozen=True, slots=True)
class Room:
    """Memory that this process may still have. host: bytes; card: where the models answer; None for what is unknown, or
    not there"""

    host: int | None
    card: Card | None = None

    def without(self, held: int, device: torch.device) -> Room:
        """Once so many bytes there are let go."""
        if device.type == "cpu":
            return replace(self, host=None if self.host is None else self.host + held)
        return replace(self, card=self.card and replace(self.card, held=self.card.held - held))

    def check(self, path: str, needed: int, needed_on_device: int = 0) -> None:
        """Raises NoMemory where it is less than these bytes."""
        if self.host is not None and needed > self.host:
            raise NoMemory(path, needed, self.host)
        check_available(path, needed_on_device, self.card)


def fitting(folder: Path, placement: Placement, room: Room) -> Placement:
    """The same with as large a batch as there is room for: what is configured, or a half, a quarter ... of it down to
    ``LEAST_BATCH``. Raises NoMemory where not even that fits, and as ``base_memory``.

    A text that is longer than the batch is read alone, and what that takes beyond is not counted.
    """
    need = base_memory(folder, placement)
    try:
        room.check(str(folder), need.needed, need.needed_on_device)
    except NoMemory:
        if placement.batch_tokens <= LEAST_BATCH:
            raise
    else:
        return placement
    return fitting(folder, replace(placement, batch_tokens=max(LEAST_BATCH, placement.batch_tokens // 2)), room)


def base_memory(folder: Path, placement: Placement) -> BaseMemory:
    """Of the model in this folder. Raises Unreplayable for headers or a config that cannot be read."""
    config, kind = architecture(folder)
    entries = [entry for file in weight_files(folder) for entry in read_entries(file)]
    is_plain = not quantisation(folder)
    weights = sum(_held(entry, placement.dtype, is_plain) for entry in entries)
    tokenizer = TOKENIZER * sum(file.stat().st_size for file in folder.glob("tokenizer*") if file.is_file())
    at_once = max((entry.size for entry in entries), default=0)
    beside = sum(_beside(entry, placement.dtype, is_plain) for entry in entries)
    is_eager = placement.attention == "eager" or (placement.attention == AUTO and not kind._supports_sdpa)
    replay = _replay(config.get_text_config(), placement, is_eager)
    loading, is_elsewhere = LIBRARIES_BYTES + at_once + beside, placement.device.type != "cpu"
    return BaseMemory(weights, tokenizer, loading, LIBRARIES_BYTES + replay, is_elsewhere)


def _held(entry: TensorEntry, dtype: torch.dtype, is_plain: bool) -> int:
    if is_plain:
        return entry.elements * dtype.itemsize if entry.kind in FLOATS else entry.size
    # De-quantised while loading. An integer is counted as packed weights of four bits each.
    weights_each = max(1, BITS[entry.kind] // 4) if entry.kind[0] in "IU" else 1
    return entry.elements * weights_each * dtype.itemsize


def _beside(entry: TensorEntry, dtype: torch.dtype, is_plain: bool) -> int:
    """What of it is in memory a second time until the model is built: as it was read where that is not what is held,
    and as one of a stack."""
    is_widened = dtype is torch.float32 and entry.kind in HALF_KINDS
    is_as_held = is_widened or BITS[entry.kind] == 8 * dtype.itemsize
    as_read = 0 if is_plain and is_as_held else entry.size
    return as_read + (_held(entry, dtype, is_plain) if STACKED.search(entry.name) else 0)


def _replay(config: Any, placement: Placement, is_eager: bool) -> int:
    """One batch of as many tokens as are allowed, as one row or as several."""
    tokens, number_bytes = placement.batch_tokens, placement.dtype.itemsize
    hidden, vocabulary, heads = (_number(config, name) or 1 for name in ("hidden_size", "vocab_size", HEADS))
    of_head = _number(config, "head_dim") or hidden // heads
    layers = _number(config, "num_hidden_layers") + 2  # a layer's cache is copied as it grows
    cache = 2 * layers * (_number(config, "num_key_value_heads") or heads) * of_head
    per_token = HIDDEN * max(hidden, heads * of_head) + BETWEEN * _between(config, hidden) + cache
    pairs = tokens * tokens * (3 * heads if is_eager else 2)
    # Of a few rows at a time: logits, their log-probabilities in float32, and what these are reduced by.
    positions = min(tokens, max(MOST_LOGITS // vocabulary, FORCED))
    return (tokens * per_token + pairs) * number_bytes + positions * vocabulary * (number_bytes + 8)


def _between(config: Any, hidden: int) -> int:
    """Width between the two halves of a feed-forward layer, of all experts that read one token together."""
    dense = _number(config, "intermediate_size") or _number(config, "n_inner") or 4 * hidden
    experts = _number(config, "num_experts_per_tok") * (_number(config, "moe_intermediate_size") or dense)
    return max(dense, experts) + _number(config, "shared_expert_intermediate_size")


def _number(config: Any, name: str) -> int:
    """Of a config; 0 where it has none, and the greatest where each layer has its own."""
    value = getattr(config, name, None)
    return max(map(int, value), default=0) if isinstance(value, list | tuple) else int(value or 0)
