"""Which weights leave most of the skill that keeps least, by what is predicted?

What is maximised: the retention of the worst skill, counted up to 1, less half of what any skill has too much, so that
no skill is bought with another one's excess. That has kinks, and what helps one skill alone helps nothing: so all
weights are tried together, on a coarse grid and then on a finer one around the best of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from detectors.composition.prediction import Doubles, RetentionModel, SkillEffects

GRID: Doubles = np.round(np.arange(0.1, 1.5001, 0.1), 2)
FINER: Doubles = np.array([-0.05, 0.0, 0.05])
EXCESS = 0.5
# Of more members than a whole grid has room for, so many combinations are drawn from it.
MOST = 100_000


def best_weights(model: RetentionModel, skills: Sequence[SkillEffects]) -> tuple[float, ...]:
    """One weight a member, in their order, for a method that sums the members up; each in [0.05, 1.55]."""
    coarse = _best(model, skills, _grid(len(skills)))
    fine = coarse + np.array(list(itertools.product(FINER, repeat=len(skills))))
    return tuple(round(float(weight), 2) for weight in _best(model, skills, fine))


def _grid(count: int) -> Doubles:
    """(m, count) weights; equal ones first, which are kept where nothing is better."""
    equal = np.array([[1.0] * count, [1.0 / count] * count])
    if len(GRID) ** count <= MOST:
        return np.concatenate([equal, np.array(list(itertools.product(GRID, repeat=count)))])
    return np.concatenate([equal, np.random.default_rng(0).choice(GRID, (MOST, count))])


def _best(model: RetentionModel, skills: Sequence[SkillEffects], weights: Doubles) -> Doubles:
    kept = np.stack([model.retention(skill, weights) for skill in skills], axis=-1)
    gain = np.minimum(kept, 1.0).min(-1) - EXCESS * np.maximum(kept - 1.0, 0.0).max(-1)
    best: Doubles = weights[int(gain.round(9).argmax())]
    return best
