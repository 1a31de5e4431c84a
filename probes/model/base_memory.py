"""How much memory a base needs, from the headers of its files, before its weights are read.

Upper bounds (probes/artefacts/needed_memory.py): what might not fit is refused before it is read. How far above the
peak they are is measured by benchmarks/process/base_memory.py; a test holds that they are not below it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from probes.artefacts.architecture import architecture, quantisation
from probes.artefacts.needed_memory import LEAST_BATCH, Answering, BaseMemory, StoredBase, memory_of, tokenizer_bytes
from probes.artefacts.safetensors_header import read_entries, weight_files
from probes.errors import NoMemory, Unsupported
from probes.model.build import AUTO, Placement
from probes.model.device_memory import Card, check_available
from probes.model.precision.kernels import SPLIT, SPLIT_TYPES


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
    placement = computing(folder, placement)
    need = base_memory(folder, placement)
    try:
        room.check(str(folder), need.needed, need.needed_on_device)
    except NoMemory:
        if placement.batch_tokens <= LEAST_BATCH:
            raise
    else:
        return placement
    return fitting(folder, replace(placement, batch_tokens=max(LEAST_BATCH, placement.batch_tokens // 2)), room)


def computing(folder: Path, placement: Placement) -> Placement:
    """The same for this base: weights that are not stored in bfloat16 throughout are computed in float32 where that is
    not configured. Raises Unsupported where it is, Unreplayable for headers or a config that cannot be read."""
    if not (placement.split or placement.is_chosen):
        return placement
    kinds = {entry.kind for file in weight_files(folder) for entry in read_entries(file)}
    is_stored_so = kinds == {"BF16"} and not quantisation(folder)
    config, _ = architecture(folder)
    if is_stored_so and (not placement.is_chosen or config.get_text_config().model_type in SPLIT_TYPES):
        return placement
    if placement.is_chosen:
        return replace(placement, dtype=torch.float32, split=False)
    raise Unsupported(str(folder), f"{SPLIT} on weights that are stored in {', '.join(sorted(kinds))} (BF16 alone can)")


def base_memory(folder: Path, placement: Placement) -> BaseMemory:
    """Of the model in this folder. Raises Unreplayable for headers or a config that cannot be read."""
    config, kind = architecture(folder)
    entries = [entry for file in weight_files(folder) for entry in read_entries(file)]
    is_eager = placement.attention == "eager" or (placement.attention == AUTO and not kind._supports_sdpa)
    stored = StoredBase(entries, tokenizer_bytes(folder), config.get_text_config(), not quantisation(folder))
    is_elsewhere = placement.device.type != "cpu"
    return memory_of(
        stored, Answering(placement.dtype.itemsize, placement.batch_tokens, is_eager, is_elsewhere, placement.split)
    )
