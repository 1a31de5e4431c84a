"""How much of a GPU's memory may this process still have, and how much may it have at all?

A GPU is often an engine's too, and an engine that finds too little free when it starts does not start: vLLM 0.32 wants
0.92 of the card (its default ``gpu_memory_utilization``), whoever uses the rest. So the process has a ceiling of
its own, which torch's allocator keeps: beyond it an allocation fails, and that is an error that is handled. What is
loaded is compared with what is free beforehand, so that nothing is read that would not fit.

``Card`` and what is computed from it ask nobody; ``card_of`` and ``limit`` are all that is asked of torch here. How
much the ceiling leaves is in probes/card_share.py.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import torch

from probes.card_share import allocator_share
from probes.errors import NoMemory, shortage, size

# What helps where a base does not fit a card at all, and where it would fit one that nobody else used.
LARGER = "take a larger one, set dtype to bfloat16 or float16, or let its engine answer (models[].served)"
BESIDE_OTHERS = "take another card or a slice, or leave the engine less of this one"


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU as this process finds it, in bytes.

    total, free: of the card, whoever uses it; reserved: by this process's allocator; held: by its tensors, a part of
    what is reserved; allowed: what the allocator may reserve
    """

    name: str
    total: int
    free: int
    reserved: int
    held: int
    allowed: int

    @property
    def others(self) -> int:
        """What is neither free nor this process's allocator's: of other processes, an engine's, and of contexts."""
        return max(0, self.total - self.free - self.reserved)

    @property
    def available(self) -> int:
        """What this process may still allocate: what its allocator keeps for later is used for it, or given back."""
        return max(0, min(self.free + self.reserved, self.allowed) - self.held)


def check_available(path: str, requested: int, card: Card | None) -> None:
    """Raises NoMemory where so many bytes are more than this process can have of the card. None: nothing is known"""
    if card is None or requested <= card.available:
        return
    words = [shortage(requested, card.available, f" on {card.name}")]
    if requested > card.total:
        words.append(f"the whole card, or slice of one, has {size(card.total)}: {LARGER}")
    elif card.others > card.total // 10:
        words.append(f"others have {size(card.others)} of its {size(card.total)}, as an engine does: {BESIDE_OTHERS}")
    if card.allowed < card.total:
        words.append(f"its models may have {size(card.allowed)} of its {size(card.total)} (probes.device_memory)")
    raise NoMemory(path, requested, card.available, "; ".join(words))


def card_of(device: torch.device) -> Card | None:
    """None where the device has no memory of its own, or where it cannot be asked: whoever loads a model there is told
    why."""
    if device.type != "cuda":
        return None
    with suppress(RuntimeError, AssertionError):  # no driver, or a context that is lost
        free, total = torch.cuda.mem_get_info(device)
        allowed = int(torch.cuda.get_per_process_memory_fraction(device) * total)
        held = torch.cuda.memory_allocated(device)
        return Card(str(device), total, free, torch.cuda.memory_reserved(device), held, allowed)
    return None


def limit(device: torch.device, most: float) -> None:
    """From now on this process cannot have more of the card; an allocation beyond fails. most: as in ``WHOLE_CARD``"""
    if (card := card_of(device)) is not None:
        torch.cuda.set_per_process_memory_fraction(allocator_share(most, card.total), device)
