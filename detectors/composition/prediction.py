"""How much of a skill will be left in a composition, before anybody has composed it?

For skill i among the members j of a composition, on the canaries of i, with d_j the displacement of the base's answers
by member j alone and c_j the strength of member j in the composition:

    retention = (f_i(c_i) + a sum_{j != i} c_j m_ij) / (1 + b h_i q_i^2 + c e_i^2)^p

    m_ij = <d_i, d_j> / |d_i|^2            what j adds along skill i (below 0: it takes away)
    q_i  = |sum_{j != i} c_j d_j| / |d_i|   how far the others push the answers together
    e_i                                    what the method adds beside the members, over the size of i, in the weights
    h_i  = sqrt(2 (1 - f_i(1/2)))           how sensitive the skill is: what it loses at half of its strength, 1 where
                                           half of it

f_i is the recorded curve of retention over strength. If effects added up, a would be 1 and b and c 0: a displacement is
taken per position without its mean, so that a softmax changes nothing. But what a model's last norm reads is scaled
back by its size, and each of several effects with it: p would be 1/2 if it were that alone. A skill that has strength
to spare, which half of it shows, gives way less: hence h. a, b, c and p were fitted by least squares on compositions
whose retention was measured (benchmarks/composition.py).

The interval is conformal over skills (Vovk 2015, cross-conformal predictors; Dunn et al. 2022, JASA 118, for two
layers): coefficients were fitted without each skill in turn, and of the compositions of the skill that was left out a
share was as near as that; the widest of these skills counts. Null: this skill is exchangeable with the recorded ones.
Guarantee then: it covers that share with a chance of n / (n + 1) for n of them. What breaks it: members or a base of
another kind than the recorded ones, which were small and of one base; so a prediction warns and never clears, and a
replay says what is.
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

    @property
    def sensitivity(self) -> float:
        """h_i, in [0, sqrt 2]."""
        return float(np.sqrt(2.0 * np.clip(1.0 - float(self.alone(np.array(0.5))), 0.0, 1.0)))

    def crowd(self, strengths: Doubles) -> Doubles:
        """(...) q_i."""
        others = strengths.copy()
        others[..., self.own] = 0.0
        pushed: Doubles = np.einsum("...i,ij,...j->...", others, self.products, others)
        return np.sqrt(np.maximum(pushed, 0.0))


@dataclass(frozen=True, slots=True)
class RetentionModel:
    """added, crowd, rest, power: a, b, c and p of the formula; coverage: of the interval

    width: of the interval, in units of what is predicted to be lost; compositions: that all of it was learnt on
    """

    added: float
    crowd: float
    rest: float
    width: float
    coverage: float = 0.95
    compositions: int = 0
    power: float = 0.5

    def retention(self, skill: SkillEffects, strengths: Doubles, rest: float = 0.0) -> Doubles:
        """(...) of this skill. strengths: (..., n) c_j; rest: e_i"""
        effect = skill.alone(strengths[..., skill.own]) + self.added * skill.added(strengths).sum(-1)
        return self.shrunk(effect, skill.sensitivity * skill.crowd(strengths) ** 2, rest)

    def shrunk(self, effect: Doubles, crowd: Doubles, rest: Doubles | float) -> Doubles:
        """(...) effects scaled back. crowd: (...) h_i q_i^2; rest: (...) e_i"""
        smaller: Doubles = effect / (1.0 + self.crowd * crowd + self.rest * np.square(rest)) ** self.power
        return smaller

    def interval(self, skill: SkillEffects, strengths: Doubles, rest: float = 0.0) -> Interval:
        mean = float(self.retention(skill, strengths, rest))
        half = self.width * (LEAST + abs(1.0 - mean))
        return Interval(mean, mean - half, mean + half, self.compositions)
