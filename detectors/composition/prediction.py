"""How much of a skill will be left in a composition, before anybody has composed it?

For skill i among the members j of a composition, on the canaries of i, with d_j the displacement of the base's answers
by member j alone and c_j the strength of member j in the composition:

    retention = (f_i(c_i) + a sum_{j != i} c_j m_ij) / sqrt(1 + b q_i^2 + c e_i^2)

    m_ij = <d_i, d_j> / |d_i|^2            what j adds along skill i (below 0: it takes away)
    q_i  = |sum_{j != i} c_j d_j| / |d_i|   how far the others push the answers together
    e_i                                    what the method adds beside the members, over the size of i, in the weights

f_i is the recorded curve of retention over strength. If effects added up, a would be 1 and b and c 0: a displacement is
taken per position without its mean, so that a softmax changes nothing. But what a model's last norm reads is scaled
back by its size, and each of several effects with it: hence the root. a, b and c were fitted by least squares on
compositions whose retention was measured (benchmarks/composition.py).

The interval is split conformal (Lei et al. 2018, JASA 113): of recorded compositions, of which no coefficient was
fitted, a share was as near as that. Null: this composition is exchangeable with those. Guarantee then: it covers with
at least that chance. What breaks it: members of another kind than the recorded ones, which were small; so a prediction
warns and never clears, and a replay says what is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectors.records import Interval

Doubles = NDArray[np.float64]
# The width of an interval where nothing is predicted to be lost, as a share of that where all is.
LEAST = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class SkillEffects:
    """What is known of one skill among n members before they are composed.

    own: index of the skill's member; products: (n, n) inner products <d_j, d_k> / |d_i|^2, 1 at its own
    scales, retentions: (S,) f_i at the recorded strengths, ascending, 0 and 1 among them
    by_weights: are these of the weights, where no answers were recorded?
    """

    own: int
    products: Doubles
    scales: Doubles
    retentions: Doubles
    by_weights: bool = False

    @property
    def along(self) -> Doubles:
        """(n,) m_ij."""
        return self.products[self.own]

    @property
    def size(self) -> Doubles:
        """(n,) |d_j| / |d_i|."""
        return np.sqrt(np.diag(self.products))

    def alone(self, strengths: Doubles) -> Doubles:
        """f_i: retention at these strengths without the others; on the line through the nearest two beyond them, and
        of a strength below 0 that of its size, taken away."""
        sizes, top = np.abs(strengths), float(self.scales[-1])
        rise = (self.retentions[-1] - self.retentions[-2]) / (self.scales[-1] - self.scales[-2])
        beyond = rise * np.maximum(sizes - top, 0.0)
        return np.sign(strengths) * (np.interp(sizes, self.scales, self.retentions) + beyond)

    def added(self, strengths: Doubles) -> Doubles:
        """(..., n) what each of the others adds along this skill, 0 at its own. strengths: (..., n)"""
        added = strengths * self.along
        added[..., self.own] = 0.0
        return added

    def crowd(self, strengths: Doubles) -> Doubles:
        """(...) q_i."""
        others = strengths.copy()
        others[..., self.own] = 0.0
        pushed: Doubles = np.einsum("...i,ij,...j->...", others, self.products, others)
        return np.sqrt(np.maximum(pushed, 0.0))


@dataclass(frozen=True, slots=True)
class RetentionModel:
    """added, crowd, rest: a, b and c of the formula; width: of the interval, in units of what is predicted to be lost

    coverage: of the interval; compositions: that it was learnt on
    """

    added: float
    crowd: float
    rest: float
    width: float
    coverage: float = 0.9
    compositions: int = 0

    def retention(self, skill: SkillEffects, strengths: Doubles, rest: float = 0.0) -> Doubles:
        """(...) of this skill. strengths: (..., n) c_j; rest: e_i"""
        effect = skill.alone(strengths[..., skill.own]) + self.added * skill.added(strengths).sum(-1)
        return effect / np.sqrt(1.0 + self.crowd * skill.crowd(strengths) ** 2 + self.rest * rest**2)

    def interval(self, skill: SkillEffects, strengths: Doubles, rest: float = 0.0) -> Interval:
        mean = float(self.retention(skill, strengths, rest))
        half = self.width * (LEAST + abs(1.0 - mean))
        return Interval(mean, mean - half, mean + half, self.compositions)
