"""What moved between two releases of a base: tensor by tensor, summed up by family in lines that a person reads.

A tensor's change is |new - old| / |old| in the Frobenius norm; of what an adapter reads of it |dW Q| / |W Q|, Q an
orthonormal basis of the rows of A, and of what it writes to |P^T dW| / |P^T W|, P likewise of B's columns. Not a
statistic: no noise is involved, both bases are read whole, one tensor at a time.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from probes.artefacts.identity import NEWEST, SCHEMES, template_hash, tokenizer_files, tokenizer_hashes
from probes.artefacts.lora_files import LoraAdapter, LowRankUpdate
from probes.artefacts.safetensors_header import read_json
from probes.artefacts.weight_grid import KINDS, NOT_LINEAR, matrix_grid
from probes.compatibility.coordinates import Coordinates, Moments, MovedMatrix, coordinates
from probes.compatibility.stored_tensors import StoredTensors
from probes.errors import Unreplayable

# The first that fits; the names are those of transformers' checkpoints.
FAMILIES = {
    "embedding": re.compile(r"embed_tokens|embed_in|wte|wpe|word_embeddings"),
    "head": re.compile(r"lm_head|embed_out|(^|\.)output\."),
    "norms": re.compile(r"norm|(^|\.)ln_"),
    "experts": re.compile(r"\.experts?\b|router|block_sparse_moe|mlp\.gate\."),
    "attention": re.compile(r"attn|attention"),
    "mlp": re.compile(r"mlp|feed_forward|ffn|fc1|fc2"),
}
OTHERS = "others"
LAYER = re.compile(r"\.(?:layers|h|blocks?)\.(\d+)\.")
# Linear matrices that are looked at for a grid.
LOOKED_AT = 8
NO_CONFIG: Mapping[str, Any] = {}
GENERATION = "generation_config.json"
PROVENANCE = {"transformers_version", "_from_model_config"}


@dataclass(frozen=True, slots=True)
class TensorChange:
    """One tensor. change: 0 equal, inf of another shape and where all of it was 0, nan where numbers are not finite

    read, written: of what the adapter reads and writes to, nan where it has no part there; reshaped: of another shape?
    """

    name: str
    change: float
    read: float = math.nan
    written: float = math.nan
    reshaped: bool = False

    @property
    def is_changed(self) -> bool:
        """Also where no number says by how much."""
        return self.change != 0

    @property
    def family(self) -> str:
        return next((family for family, pattern in FAMILIES.items() if pattern.search(self.name)), OTHERS)

    @property
    def layer(self) -> int | None:
        number = LAYER.search(self.name)
        return int(number[1]) if number else None


@dataclass(frozen=True, slots=True)
class BaseChanges:
    """tensors: of both bases, in the order of the old one; gone, added: names; total: tensors of the old base

    fields: of config.json, by name; files: what else differs, in words; grid: of the new base's weights, "" for none
    """

    tensors: tuple[TensorChange, ...]
    gone: tuple[str, ...]
    added: tuple[str, ...]
    coordinates: Coordinates
    fields: tuple[str, ...]
    files: tuple[str, ...]
    grid: str = ""

    @property
    def changed(self) -> tuple[TensorChange, ...]:
        return tuple(tensor for tensor in self.tensors if tensor.is_changed)

    @property
    def is_same(self) -> bool:
        """Does nothing differ that changes an answer?"""
        return not (self.changed or self.gone or self.added or self.fields or self.files)

    def lines(self) -> list[str]:
        """At most ten, each a sentence."""
        total = len(self.tensors) + len(self.gone)
        lines = [f"weights: {len(self.changed)} of {total} tensors changed" if self.changed else "weights: equal"]
        if self.coordinates is not Coordinates.SAME:
            lines[0] += f": the same base with its hidden units {self.coordinates}, as far as the weights tell"
        if self.gone or self.added:
            lines.append(f"names: {len(self.gone)} tensors are gone, {len(self.added)} are new")
        lines += self._families()
        if self.grid:
            lines.append(f"quantisation: {self.grid}")
        if self.fields:
            lines.append(f"config: {_listed(self.fields)}")
        return [*lines, *self.files][:10]

    def _families(self) -> Iterator[str]:
        by_family: dict[str, list[TensorChange]] = defaultdict(list)
        for tensor in self.tensors:
            by_family[tensor.family].append(tensor)
        for family, tensors in sorted(by_family.items(), key=lambda item: -_largest(item[1])):
            if changed := [tensor for tensor in tensors if tensor.is_changed]:
                yield f"{family}: {len(changed)} of {len(tensors)} changed{_layers(changed)}, {_figures(changed)}"


def base_changes(old: Path, new: Path, adapter: LoraAdapter | None = None) -> BaseChanges:
    """Both bases whole, one tensor at a time. adapter: whose parts are looked at

    Raises Unreplayable for damaged files and for other formats than safetensors.
    """
    first, second = StoredTensors.open(old), StoredTensors.open(new)
    shared = [name for name in first.entries if name in second]
    updates = adapter.low_rank if adapter else {}
    changes, moved = [], list[MovedMatrix]()
    for name in shared:
        change, matrix = _compared(name, first, second, updates.get(name.removesuffix(".weight")))
        changes.append(change)
        moved += [matrix] if matrix else []
    return BaseChanges(
        tuple(changes),
        tuple(name for name in first.entries if name not in second),
        tuple(name for name in second.entries if name not in first),
        coordinates(first, second, moved),
        _fields(old, new),
        tuple(_files(old, new)),
        _grid(second, [tensor.name for tensor in changes if tensor.is_changed]),
    )


def _compared(
    name: str, old: StoredTensors, new: StoredTensors, update: LowRankUpdate | None
) -> tuple[TensorChange, MovedMatrix | None]:
    before, after = old.stored(name), new.stored(name)
    if before.shape != after.shape:
        return TensorChange(name, math.inf, reshaped=True), None
    if before.dtype == after.dtype and torch.equal(before, after):
        return TensorChange(name, 0.0), None
    w, moved = before.to(torch.float32), after.to(torch.float32)
    difference = moved - w
    change = relative(difference, w)
    read, written = _of_adapter(difference, w, update) if update is not None else (math.nan, math.nan)
    matrix = MovedMatrix(name, change, Moments.of(w), Moments.of(moved)) if w.dim() == 2 else None
    return TensorChange(name, change, read, written), matrix


def _of_adapter(difference: torch.Tensor, w: torch.Tensor, update: LowRankUpdate) -> tuple[float, float]:
    if w.dim() != 2 or update.a.shape[1] != w.shape[1] or update.b.shape[0] != w.shape[0]:
        return math.nan, math.nan
    reads, writes = (torch.linalg.qr(half.float())[0] for half in (update.a.T, update.b))
    return relative(difference @ reads, w @ reads), relative(writes.T @ difference, writes.T @ w)


def relative(difference: torch.Tensor, whole: torch.Tensor) -> float:
    """|difference| / |whole| in the Frobenius norm; inf for a change of nothing, nan where a number is not finite."""
    size, change = float(whole.norm()), float(difference.norm())
    if not (math.isfinite(size) and math.isfinite(change)):
        return math.nan
    return change / size if size > 0 else (math.inf if change > 0 else 0.0)


def _largest(tensors: list[TensorChange]) -> float:
    return max((math.inf if math.isnan(tensor.change) else tensor.change for tensor in tensors), default=0.0)


def _layers(tensors: list[TensorChange]) -> str:
    numbers = sorted({tensor.layer for tensor in tensors if tensor.layer is not None})
    if not numbers:
        return ""
    return f" (layer {numbers[0]})" if len(numbers) == 1 else f" (layers {numbers[0]}-{numbers[-1]})"


def _figures(tensors: list[TensorChange]) -> str:
    counts = {
        "of another shape": sum(tensor.reshaped for tensor in tensors),
        "with numbers that are not finite": sum(math.isnan(tensor.change) for tensor in tensors),
        "that were all 0 before": sum(math.isinf(tensor.change) and not tensor.reshaped for tensor in tensors),
    }
    finite = [tensor.change for tensor in tensors if math.isfinite(tensor.change)]
    words = [f"{count} {what}" for what, count in counts.items() if count]
    if finite:
        words.append(f"by {100 * _mean(finite):.3g} % in the mean, {100 * max(finite):.3g} % at most")
    if read := [tensor.read for tensor in tensors if math.isfinite(tensor.read)]:
        words.append(f"of what the adapter reads by {100 * _mean(read):.3g} %")
    return ", ".join(words)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _fields(old: Path, new: Path) -> tuple[str, ...]:
    """Fields of config.json that change an answer and differ."""
    scheme = SCHEMES[NEWEST]
    before, after = (dict(_object(scheme.base(read_json(place / "config.json")))) for place in (old, new))
    return tuple(
        f"{key} {_short(before.get(key))} -> {_short(after.get(key))}"
        for key in sorted({*before, *after})
        if before.get(key) != after.get(key)
    )


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _listed(names: Sequence[str], shown: int = 4) -> str:
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _files(old: Path, new: Path) -> Iterator[str]:
    """Differences beside weights and config, in words."""
    if tokenizer_files(old) and tokenizer_files(new) and _tokenizer(old) != _tokenizer(new):
        yield "tokenizer: its files differ"
    if bool(tokenizer_files(old)) != bool(tokenizer_files(new)):
        yield f"tokenizer: {'gone' if tokenizer_files(old) else 'new'}"
    if template_hash(old) != template_hash(new):
        yield "chat template: differs"
    if special := _differing(old, new, "special_tokens_map.json") or _special(old, new):
        yield f"special tokens: {_listed(special)}"
    if generation := _differing(old, new, GENERATION):
        yield f"generation config: {_listed(generation)}"


def _tokenizer(folder: Path) -> str:
    return tokenizer_hashes(folder)[NEWEST]


def _differing(old: Path, new: Path, name: str) -> list[str]:
    before, after = _optional(old / name), _optional(new / name)
    return [key for key in sorted({*before, *after}) if key not in PROVENANCE and before.get(key) != after.get(key)]


def _special(old: Path, new: Path) -> list[str]:
    before, after = _optional(old / "tokenizer_config.json"), _optional(new / "tokenizer_config.json")
    keys = [key for key in sorted({*before, *after}) if key.endswith(("_token", "_tokens"))]
    return [key for key in keys if before.get(key) != after.get(key)]


def _optional(file: Path) -> Mapping[str, Any]:
    if not file.is_file():
        return NO_CONFIG
    try:
        return read_json(file)
    except Unreplayable:
        return NO_CONFIG


def _grid(stored: StoredTensors, changed: list[str]) -> str:
    """How the first changed matrices are quantised, where most of them are; "" for not."""
    linear = [n for n in changed if stored.entries[n].kind in KINDS and not NOT_LINEAR.search(n)]
    matrices = [n for n in linear if len(stored.entries[n].shape) == 2 and min(stored.entries[n].shape) >= 32]
    grids = [grid for name in matrices[:LOOKED_AT] if (grid := matrix_grid(_as_stored(stored.stored(name))))]
    return grids[0].words if grids and 2 * len(grids) > min(len(matrices), LOOKED_AT) else ""


def _as_stored(tensor: torch.Tensor) -> Any:
    """As weight_grid.py has it: bfloat16 as unsigned integers."""
    if tensor.dtype is torch.bfloat16:
        return tensor.view(torch.int16).numpy().view("<u2")
    return tensor.numpy()
