"""How much memory a base needs, from the headers of its files and its config.json alone: nothing of torch is imported.

Upper bounds: what might not fit is refused before it is read, because beyond a container's limit no error is raised and
the process is killed. probes/model/base_memory.py counts by it before a load, with the config as transformers reads it;
``gapwatch doctor --plan`` before there is a process, with the config as it is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probes.artefacts.safetensors_header import BITS, TensorEntry, read_entries, read_json, weight_files
from probes.errors import Unreplayable

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
# Most logits that one call of the output layer computes, 64 MB in float32, which are in memory up to three times; those
# of a whole micro-batch over a large vocabulary would take gigabytes.
MOST_LOGITS = 16_000_000
# So many tokens may be looked back at for each token of a pass: those of a beginning that is read once are in the
# attention of every row, whose keys and values of one layer are copied for it.
IN_ATTENTION = 8
# Tokens of beginnings that are kept for responses to come, in batches.
KEPT_BATCHES = 1
HEADS = "num_attention_heads"
# No batch is made smaller than this to fit: as many tokens as a usual canary has, prompt and answer.
LEAST_BATCH = 256
# Names of former configs -> ours.
FORMER_NAMES = {
    "hidden_size": ("n_embd", "d_model", "dim"),
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    HEADS: ("n_head", "n_heads", "num_heads"),
    "num_key_value_heads": ("num_kv_heads", "n_head_kv"),
    "intermediate_size": ("n_inner", "ffn_dim", "ffn_hidden_size", "d_inner"),
}
# Types whose class in transformers computes a part of its attention in the plain way alone, where a token's weights
# over all others are held at once; tests/probes/artefacts/test_needed_memory.py compares with the classes themselves.
PLAIN_ATTENTION = frozenset(
    (
        *("bloom", "codegen", "cpmant", "deepseek_v4", "falcon_mamba", "flint", "gemma2", "gpt_neo"),
        *("gpt_neox_japanese", "gpt_oss", "gptj", "granite_swa", "granitemoe_swa", "hy_v4", "inkling2_text", "mamba"),
        *("mamba2", "mimo_v2_flash", "mpt", "openai-gpt", "rwkv", "vaultgemma", "xglm", "xlnet", "xlstm"),
    )
)
LAYER = re.compile(r"\.(\d+)\.")
EMBEDDING = re.compile(r"(embed_tokens|embed_in|wte|word_embeddings|embeddings|embedding)\.weight$")


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
class Answering:
    """How a base answers. number_bytes: of each number that is computed with; batch_tokens: of one pass at most;
    is_eager: does it hold all of its attention's weights at once; on_device: as in ``BaseMemory``; is_split: do
    matrices stay in two bytes a number
    """

    number_bytes: int
    batch_tokens: int
    is_eager: bool = False
    on_device: bool = False
    is_split: bool = False


@dataclass(frozen=True, slots=True)
class StoredBase:
    """What its files say. config: of its text model, by attribute; is_plain: not stored quantised"""

    entries: Sequence[TensorEntry]
    tokenizer_bytes: int
    config: Any
    is_plain: bool

    @property
    def has_plain_attention(self) -> bool:
        """Does its class hold the weights of all of a layer's attention at once?"""
        return self.config.model_type in PLAIN_ATTENTION

    @property
    def bytes(self) -> int:
        """Of its weights in the files."""
        return sum(entry.size for entry in self.entries)

    @property
    def parameters(self) -> int:
        """Numbers in its tensors, packed ones counted as they are packed."""
        return sum(entry.elements for entry in self.entries)


class WrittenConfig:
    """A config.json by attribute: of its text model, former names by ours; None for what it does not say."""

    def __init__(self, written: dict[str, Any], entries: Iterable[TensorEntry]) -> None:
        nested: dict[str, Any] = next(
            (written[key] for key in ("text_config", "llm_config") if isinstance(written.get(key), dict)), {}
        )
        self._written = written | nested
        rows = list(entries)
        shapes = [entry.shape for entry in rows if EMBEDDING.search(entry.name) and len(entry.shape) == 2]
        layers = [int(number[1]) for entry in rows if (number := LAYER.search(entry.name))]
        # A config may leave out what its class has by default, or computes.
        self._shape = dict(zip(("vocab_size", "hidden_size"), max(shapes, default=()), strict=False))
        self._shape["num_hidden_layers"] = max(layers, default=0) + 1

    def __getattr__(self, name: str) -> Any:
        names = (name, *FORMER_NAMES.get(name, ()))
        written = (value for key in names if (value := self._written.get(key)) is not None)
        return next(written, self._shape.get(name))


def stored_base(folder: Path) -> StoredBase:
    """What the files in this folder say. Raises Unreplayable for headers or a config that cannot be read."""
    config = read_json(folder / "config.json")
    entries = [entry for file in weight_files(folder) for entry in read_entries(file)]
    if unknown := {entry.kind for entry in entries} - BITS.keys():
        raise Unreplayable(str(folder), f"a tensor's type is {min(unknown)}, which is not read")
    is_plain = not config.get("quantization_config") and not (folder / "hf_quant_config.json").is_file()
    return StoredBase(entries, tokenizer_bytes(folder), WrittenConfig(config, entries), is_plain)


def tokenizer_bytes(folder: Path) -> int:
    """Of the tokenizer's files."""
    return sum(file.stat().st_size for file in folder.glob("tokenizer*") if file.is_file())


def memory_of(base: StoredBase, answering: Answering) -> BaseMemory:
    """What it needs where it answers like this."""
    number_bytes = answering.number_bytes
    widths = [2 if answering.is_split and len(entry.shape) == 2 else number_bytes for entry in base.entries]
    weights = sum(_held(entry, width, base.is_plain) for entry, width in zip(base.entries, widths, strict=True))
    at_once = max(
        (entry.size + _rounded(entry, width) for entry, width in zip(base.entries, widths, strict=True)), default=0
    )
    beside = sum(_beside(entry, width, base.is_plain) for entry, width in zip(base.entries, widths, strict=True))
    loading, replay = LIBRARIES_BYTES + at_once + beside, LIBRARIES_BYTES + _replay(base.config, answering)
    return BaseMemory(weights, TOKENIZER * base.tokenizer_bytes, loading, replay, answering.on_device)


def _held(entry: TensorEntry, number_bytes: int, is_plain: bool) -> int:
    if is_plain:
        return entry.elements * number_bytes if entry.kind in FLOATS else entry.size
    # De-quantised while loading. An integer is counted as packed weights of four bits each.
    weights_each = max(1, BITS[entry.kind] // 4) if entry.kind[0] in "IU" else 1
    return entry.elements * weights_each * number_bytes


def _beside(entry: TensorEntry, number_bytes: int, is_plain: bool) -> int:
    """What of it is in memory a second time until the model is built: as it was read where that is not what is held,
    and as one of a stack."""
    is_widened = number_bytes == 4 and entry.kind in HALF_KINDS
    is_as_held = is_widened or BITS[entry.kind] == 8 * number_bytes or _rounded(entry, number_bytes) > 0
    as_read = 0 if is_plain and is_as_held else entry.size
    return as_read + (_held(entry, number_bytes, is_plain) if STACKED.search(entry.name) else 0)


def _rounded(entry: TensorEntry, number_bytes: int) -> int:
    """Bytes that it is rounded to while it is read (probes/model/build.py), 0 where it is not."""
    is_rounded = number_bytes == 2 and entry.kind == "F32" and len(entry.shape) > 1
    return number_bytes * entry.elements if is_rounded else 0


def _replay(config: Any, answering: Answering) -> int:
    """One batch of as many tokens as are allowed, as one row or as several."""
    tokens, number_bytes = answering.batch_tokens, answering.number_bytes
    hidden, vocabulary, heads = (_number(config, name) or 1 for name in ("hidden_size", "vocab_size", HEADS))
    of_head = _number(config, "head_dim") or hidden // heads
    layers = _number(config, "num_hidden_layers") + 2  # a layer's cache is copied as it grows
    cache = 2 * layers * (_number(config, "num_key_value_heads") or heads) * of_head
    in_attention = IN_ATTENTION * 2 * ((_number(config, "num_key_value_heads") or heads) + heads) * of_head
    kept = KEPT_BATCHES * (cache + hidden)
    per_token = HIDDEN * max(hidden, heads * of_head) + BETWEEN * _between(config, hidden) + cache + in_attention + kept
    pairs = tokens * tokens * (3 * heads if answering.is_eager else 2)
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
