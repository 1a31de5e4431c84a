"""What golden records know of a composition before it exists: how far each member moves the answers of a skill.

A golden record holds, for each canary, the answers of its adapter, of the base, of the adapter at other strengths, and
of the other adapters that are most like it. Which of them lie along the skill, and how far, follows without a model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detectors.canaries.retention import PreparedReference, prepare
from detectors.composition.prediction import Doubles, SkillEffects
from probes.golden.record import GoldenCanary


def skill_effects(canaries: Sequence[GoldenCanary], own: str, members: Sequence[str]) -> SkillEffects | None:
    """Of the skill ``own``. canaries: of its golden record; None where a member's answers are not recorded on them, or
    where there is no canary"""
    prepared = [prepare(canary.reference) for canary in canaries]
    others = [name for name in members if name != own]
    if not prepared or any(name not in reference.others for reference in prepared for name in others):
        return None
    products = np.mean([_of_canary(reference, own, members) for reference in prepared], axis=0)
    scales = np.asarray(prepared[0].scales, dtype=np.float64)
    return SkillEffects(members.index(own), products, scales, _curve(prepared, scales))


def _of_canary(reference: PreparedReference, own: str, members: Sequence[str]) -> Doubles:
    """(n, n) inner products of the members' displacements, over the skill's own energy."""
    vectors = np.stack(
        [reference.delta if name == own else reference.from_base(reference.others[name]) for name in members]
    )
    products: Doubles = vectors @ vectors.T / reference.energy
    return products


def _curve(references: Sequence[PreparedReference], scales: Doubles) -> Doubles:
    """(S,) mean retention at each recorded strength; canaries of one record have the same ones."""
    rows = [reference.effect_curve.knots @ reference.delta / reference.energy for reference in references]
    return np.mean([row for row in rows if len(row) == len(scales)], axis=0)
