"""How much of what an adapter reads and writes does a new base touch? A few numbers from the weights alone.

Each is a mean over the adapter's modules, weighted by the energy |s B A|^2 of its update there, and 0 where nothing
moved. With e a token's embedding, g the norm before a module and U the output layer:

- ``reads``: 1 - cosine between A W' x in both bases, W' x what reaches the module of a token by itself
- ``writes``: 1 - cosine between what the module answers along B's columns in both bases
- ``read_change``, ``write_change``: |dW Q| / |W Q| and |P^T dW| / |P^T W| (base_changes.py)
- ``change``: |dW| / |W| over all matrices together
- ``merged``: |<dW, s B A>| / |s B A|^2, the share of the adapter that the base has taken in already
- ``lost``: |1 - share|, of what the adapter adds to the answers to random short texts (streamed_llama.py); no mean
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path

import torch

from probes.artefacts.lora_files import LoraAdapter, LowRankUpdate
from probes.artefacts.safetensors_header import read_json
from probes.compatibility.base_changes import relative
from probes.compatibility.coordinates import READERS, sampled_tokens
from probes.compatibility.stored_tensors import StoredTensors
from probes.compatibility.streamed_llama import answers, kept_share, random_texts, vocabulary

TOKENS = 256
HEADS = ("lm_head.weight",)


@dataclass(frozen=True, slots=True)
class LossFeatures:
    """See the module; each >= 0, nan where it cannot be had. is_whole: do both bases have every module of the adapter
    under Llama's names?"""

    reads: float
    writes: float
    read_change: float
    write_change: float
    change: float
    merged: float
    lost: float
    is_whole: bool = True

    @property
    def vector(self) -> tuple[float, ...]:
        """In the order of ``NAMES``."""
        return astuple(self)[: len(NAMES)]


NAMES = ("reads", "writes", "read_change", "write_change", "change", "merged", "lost")


@dataclass(frozen=True, slots=True)
class _Module:
    """One module that the adapter changes, by its layer's prefix and its name inside."""

    prefix: str
    name: str
    update: LowRankUpdate

    @property
    def tensor(self) -> str:
        return f"{self.prefix}{self.name}.weight"


def loss_features(old: Path, new: Path, adapter: LoraAdapter) -> LossFeatures:
    """Reads every matrix of both bases a few times. Raises Unreplayable for damaged files."""
    first, second = StoredTensors.open(old), StoredTensors.open(new)
    modules = list(_modules(adapter))
    rows = [row for module in modules if (row := _of_module(module, first, second)) is not None]
    total = sum(row[0] for row in rows) or 1.0
    reads, writes, read_change, write_change = (sum(row[0] * row[1][i] for row in rows) / total for i in range(4))
    merged = abs(sum(row[2] for row in rows)) / total
    whole = bool(rows) and len(rows) == len(modules) and not adapter.saved and not adapter.beyond_low_rank
    change = _whole_change(first, second)
    lost = abs(1.0 - _share(first, second, adapter))
    return LossFeatures(reads, writes, read_change, write_change, change, merged, lost, is_whole=whole)


def _share(old: StoredTensors, new: StoredTensors, adapter: LoraAdapter) -> float:
    """Of what the adapter adds, as ``kept_share`` has it; nan where a base is not computed, or has other tokens."""
    size = vocabulary(old)
    if not size or vocabulary(new) != size:
        return math.nan
    ids = random_texts(size)
    before = answers(old, adapter, ids)
    after = answers(new, adapter, ids) if before is not None else None
    return math.nan if before is None or after is None else kept_share(before, after)


def _modules(adapter: LoraAdapter) -> Iterator[_Module]:
    for path, update in adapter.low_rank.items():
        parts = path.split(".")
        yield _Module(".".join(parts[:-2]) + ".", ".".join(parts[-2:]), update)


def _of_module(
    module: _Module, old: StoredTensors, new: StoredTensors
) -> tuple[float, tuple[float, float, float, float], float] | None:
    """Energy, the four figures, and energy times the share that is merged in; None where a base lacks it."""
    if module.tensor not in old or module.tensor not in new:
        return None
    w, moved = old.read(module.tensor), new.read(module.tensor)
    a, b = module.update.a.float(), module.update.b.float()
    if w.shape != moved.shape or w.shape != (b.shape[0], a.shape[1]):
        return None
    scaling = module.update.scaling
    energy = scaling**2 * float(((b.T @ b) * (a @ a.T)).sum())
    reads, writes = torch.linalg.qr(a.T)[0], torch.linalg.qr(b)[0]
    difference = moved - w
    figures = (
        _apart(_inputs(module, old), _inputs(module, new), a),
        _apart(_outputs(module, old), _outputs(module, new), b.T),
        relative(difference @ reads, w @ reads),
        relative(writes.T @ difference, writes.T @ w),
    )
    return energy, figures, scaling * float((difference * (b @ a)).sum())


def _apart(old: torch.Tensor | None, new: torch.Tensor | None, part: torch.Tensor) -> float:
    """1 - cosine between what this part, (r, n), makes of (tokens, n) in both bases; 0 where there is none."""
    if old is None or new is None or old.shape != new.shape or old.shape[1] != part.shape[1]:
        return 0.0
    first, second = old @ part.T, new @ part.T
    size = float(first.norm() * second.norm())
    return 1.0 - float((first * second).sum()) / size if size > 0 else 0.0


def _inputs(module: _Module, stored: StoredTensors) -> torch.Tensor | None:
    """(tokens, in): what reaches the module of each token by itself, from the embedding through its own layer alone."""
    if module.name in READERS:
        return _normed(module, stored, READERS[module.name])
    if module.name == "mlp.down_proj":
        up = _matrix(stored, f"{module.prefix}mlp.up_proj.weight")
        normed = _normed(module, stored, "post_attention_layernorm")
        return None if up is None or normed is None else normed @ up.T
    values = _matrix(stored, f"{module.prefix}self_attn.v_proj.weight")
    normed = _normed(module, stored, "input_layernorm")
    own = _matrix(stored, module.tensor)
    if values is None or normed is None or own is None or own.shape[1] % values.shape[0]:
        return None
    # Each group of keys and values answers for as many heads in a row.
    heads = _value_heads(stored.folder)
    groups = (normed @ values.T).unflatten(1, (heads, -1)) if heads and values.shape[0] % heads == 0 else None
    if groups is None:
        return None
    return groups.repeat_interleave(own.shape[1] // values.shape[0], dim=1).flatten(1)


def _outputs(module: _Module, stored: StoredTensors) -> torch.Tensor | None:
    """(tokens, out): where the module writes to the stream, the output layer's rows; else what it answers now."""
    if module.name in ("self_attn.o_proj", "mlp.down_proj"):
        head = next((name for name in HEADS if name in stored), None)
        norm = _matrix(stored, "model.norm.weight")
        rows = sampled_tokens(stored, TOKENS) if head is None else _sampled(stored.read(head))
        return None if rows is None else rows if norm is None else rows * norm
    inputs, own = _inputs(module, stored), _matrix(stored, module.tensor)
    return None if inputs is None or own is None else inputs @ own.T


def _normed(module: _Module, stored: StoredTensors, norm: str) -> torch.Tensor | None:
    tokens, weight = sampled_tokens(stored, TOKENS), _matrix(stored, f"{module.prefix}{norm}.weight")
    if tokens is None or weight is None or tokens.shape[1] != weight.shape[0]:
        return None
    return tokens * weight


def _matrix(stored: StoredTensors, name: str) -> torch.Tensor | None:
    return stored.read(name) if name in stored else None


def _sampled(rows: torch.Tensor) -> torch.Tensor:
    return rows[torch.linspace(0, len(rows) - 1, min(TOKENS, len(rows))).long()]


def _value_heads(folder: Path) -> int:
    """How many groups of keys and values its config names, 0 where it names none."""
    config = read_json(folder / "config.json")
    return int(config.get("num_key_value_heads") or config.get("num_attention_heads") or 0)


def _whole_change(old: StoredTensors, new: StoredTensors) -> float:
    """Over all matrices that both have in the same shape, as one vector."""
    size = change = 0.0
    for name, entry in old.entries.items():
        if len(entry.shape) != 2 or name not in new or new.entries[name].shape != entry.shape:
            continue
        w, moved = old.read(name), new.read(name)
        size += float(w.square().sum())
        change += float((moved - w).square().sum())
    return math.sqrt(change / size) if size > 0 else 0.0
