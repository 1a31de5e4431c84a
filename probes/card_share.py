"""How much of a GPU's memory may the models have, by what is configured? Arithmetic alone, without torch."""

from __future__ import annotations

# Of a process on a card beside what its allocator has: the driver's context, and the kernels of torch and cuBLAS, which
# are loaded as they are first used. An estimate; tests/gpu holds that it is not below what is taken.
CONTEXT_BYTES = 600_000_000
# A ceiling of at most 1 is a share of the card, a greater one is bytes.
WHOLE_CARD = 1.0


def ceiling(most: float, total: int) -> int:
    """Bytes of a card that the process may have, its context included. most: as in ``WHOLE_CARD``"""
    return min(total, int(most * total) if most <= WHOLE_CARD else int(most))


def allocator_share(most: float, total: int) -> float:
    """The share of a card that the allocator may reserve, in [0, 1]: the ceiling without the context. All of it, where
    the whole card may be had: what the context takes is then not free."""
    if most == WHOLE_CARD:
        return 1.0
    return max(0, ceiling(most, total) - CONTEXT_BYTES) / total
