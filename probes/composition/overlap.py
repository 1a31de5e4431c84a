"""How the updates of several adapters lie to each other in the weights, from their factors alone.

<B A, B' A'> = sum((B^T B') * (A A'^T)): r x r matrices for each module, never the product itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from detectors.composition.prediction import Doubles, SkillEffects
from probes.artefacts.lora_files import LoraAdapter
from probes.composition.compose import Composed, Factors

NOTHING = 1e-30


def factors_of(adapter: LoraAdapter) -> dict[str, Factors]:
    """With the scaling in B."""
    return {name: (part.a.float(), part.b.float() * part.scaling) for name, part in adapter.low_rank.items()}


def inner(first: Mapping[str, Factors], second: Mapping[str, Factors]) -> float:
    """Of the two updates as one vector each, over the modules that both change."""
    return sum(_inner(first[name], second[name]) for name in first.keys() & second.keys())


@dataclass(frozen=True, slots=True, eq=False)
class WeightOverlap:
    """Of n members, in their order.

    products: (n, n) inner products of whole updates
    inputs, outputs: (n, n) share of one's column space of A^T, of B, that lies in the other's; 1 where it is the same,
    0 where they have no direction in common; modules weighted by the update's energy there
    """

    products: Doubles
    inputs: Doubles
    outputs: Doubles

    def cosine(self, first: int, second: int) -> float:
        size = float(np.sqrt(self.products[first, first] * self.products[second, second]))
        return float(self.products[first, second]) / max(size, NOTHING)

    def ratio(self, first: int, second: int) -> float:
        """|second| / |first|."""
        return float(np.sqrt(self.products[second, second] / max(self.products[first, first], NOTHING)))

    def effects(self, own: int) -> SkillEffects:
        """As if answers moved as the weights do: what is known where no answers are recorded."""
        energy = max(float(self.products[own, own]), NOTHING)
        line = np.array([0.0, 1.0])
        return SkillEffects(own, self.products / energy, line, line, by_weights=True)


def weight_overlap(members: Sequence[Mapping[str, Factors]]) -> WeightOverlap:
    """members: module -> factors of each, scaling included"""
    pairs = [[_overlap(first, second) for second in members] for first in members]
    products, inputs, outputs = (np.array([[pair[i] for pair in row] for row in pairs]) for i in range(3))
    return WeightOverlap(products, inputs, outputs)


def strengths_in(
    composed: Composed, members: Sequence[Mapping[str, Factors]], products: Doubles
) -> tuple[Doubles, Doubles]:
    """(n,) the strength of each member in what was composed, by least squares in the weights, and (n,) what of the
    composition no member explains, over the size of each. products: (n, n) of the members"""
    along = np.array([inner(member, composed.factors) for member in members])
    strengths = np.linalg.lstsq(products, along, rcond=1e-8)[0]
    rest = max(inner(composed.factors, composed.factors) - float(strengths @ along), 0.0)
    return strengths, np.sqrt(rest / np.maximum(np.diag(products), NOTHING))


def _inner(first: Factors, second: Factors) -> float:
    return float(((first[1].T @ second[1]) * (first[0] @ second[0].T)).sum())


def _overlap(first: Mapping[str, Factors], second: Mapping[str, Factors]) -> tuple[float, float, float]:
    """Inner product, and the shares of the first one's spaces of inputs and outputs that the second one has."""
    product = total = inputs = outputs = 0.0
    for name, pair in first.items():
        energy = _inner(pair, pair)
        total += energy
        if name not in second:
            continue
        product += _inner(pair, second[name])
        inputs += energy * _common(pair[0].T, second[name][0].T)
        outputs += energy * _common(pair[1], second[name][1])
    return product, inputs / max(total, NOTHING), outputs / max(total, NOTHING)


def _common(first: torch.Tensor, second: torch.Tensor) -> float:
    """Share of the first's column space that lies in the second's: mean square of the cosines between them."""
    own, other = torch.linalg.qr(first)[0], torch.linalg.qr(second)[0]
    return float((own.T @ other).square().sum()) / own.shape[1]
