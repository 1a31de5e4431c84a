"""Which slip of arithmetic gives this strength? From rank and alpha of the adapter, as its golden record has them.

LoRA adds alpha / r times B A to a weight, rsLoRA alpha / sqrt(r) times (Hu et al. 2021, section 4.1; Kalajdzievski
2023, section 3). An engine that takes the one for the other, or that drops a factor, serves the adapter at a fixed
ratio to the strength that it was accepted at. Whether the adapter was trained as rsLoRA is not recorded: the direction
of the ratio tells.
"""

from __future__ import annotations

import math

# A strength has a slip's name within this share of it.
NEAR = 0.03


def slips(strength: float, rank: int, alpha: float) -> tuple[str, ...]:
    """The slips whose ratio is within 3 % of this strength, the nearest first; several where they coincide for this
    adapter, as sqrt(r) and 2 do at r = 4. Empty where none is near, or the rank is not known (0).

    strength: served over accepted, > 0; alpha: 0 where unknown. Names: of STRENGTH_ARITHMETIC in
    detectors/on_call_text.py
    """
    near = {name: abs(strength / ratio - 1.0) for name, ratio in _ratios(rank, alpha).items()}
    # A ratio of 1 is no slip: it serves the adapter as accepted.
    return tuple(sorted((name for name, away in near.items() if away <= NEAR), key=near.__getitem__))


def _ratios(rank: int, alpha: float) -> dict[str, float]:
    """Slip -> served over accepted, of those that change anything."""
    if rank < 1:
        return {}
    root = math.sqrt(rank)
    ratios = {
        "rsLoRA switched on": root,
        "rsLoRA switched off": 1.0 / root,
        "not divided by r": float(rank),
        "divided by r twice": 1.0 / rank,
        "twice": 2.0,
        "half": 0.5,
    }
    if alpha > 0:
        ratios |= {"alpha / r left out": rank / alpha, "alpha / sqrt(r) left out": root / alpha}
    return {name: ratio for name, ratio in ratios.items() if abs(ratio - 1.0) > NEAR}
