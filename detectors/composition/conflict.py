"""Why a composition loses a skill: which of the conflicts between adapters costs most of it.

Of the predicted loss: what its own weight costs, what the others take away along it, and what is left to the directions
in which they push besides. The largest part names the conflict. That two behaviours exclude each other (semantic) is
what is left where neither weights nor sizes explain it; only answers prove it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from detectors.composition.prediction import Doubles, SkillEffects

# So many times the skill's own effect, on its own canaries, drowns it.
DROWNS = 2.0


class Conflict(StrEnum):
    """NONE: the skill keeps what is tolerated; DILUTED: its own weight leaves no more."""

    NONE = "none"
    DILUTED = "diluted"
    SIGN = "sign"
    MAGNITUDE = "magnitude"
    SEMANTIC = "semantic"


@dataclass(frozen=True, slots=True)
class NamedConflict:
    """other: index of the member that costs most, the skill's own where it is its weight"""

    conflict: Conflict
    other: int


def name_conflict(skill: SkillEffects, strengths: Doubles, retention: float, tolerance: float) -> NamedConflict:
    """strengths: (n,) of the members; retention: predicted or measured; tolerance: share that may be lost"""
    lost = 1.0 - retention
    if lost <= tolerance:
        return NamedConflict(Conflict.NONE, skill.own)
    diluted = 1.0 - float(skill.alone(strengths[skill.own]))
    added = skill.added(strengths)
    taken = -float(added[added < 0].sum())
    if diluted >= max(taken, lost - diluted - taken):
        return NamedConflict(Conflict.DILUTED, skill.own)
    if taken >= lost - diluted - taken:
        return NamedConflict(Conflict.SIGN, int(added.argmin()))
    pushes = abs(strengths) * skill.size
    pushes[skill.own] = 0.0
    other = int(pushes.argmax())
    drowned = pushes[other] >= DROWNS * abs(float(strengths[skill.own]))
    return NamedConflict(Conflict.MAGNITUDE if drowned else Conflict.SEMANTIC, other)
