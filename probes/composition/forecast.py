"""What a composition is expected to keep of each skill, and what the alternatives are expected to keep.

Of a method that sums the members up, the strength of each in the composition is its weight; of every other method the
composition is made, and the strengths are read from it by least squares in the weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from detectors.composition.best_weights import best_weights
from detectors.composition.conflict import NamedConflict, name_conflict
from detectors.composition.prediction import Doubles, RetentionModel, SkillEffects
from detectors.records import Interval
from probes.artefacts.lora_files import LoraAdapter
from probes.composition.compose import Composed, Factors, compose
from probes.composition.overlap import WeightOverlap, factors_of, strengths_in, weight_overlap
from probes.composition.recipe import WHOLE_SUMS, Member, Method, Recipe
from probes.errors import Refused

FILE = Path(__file__).parent / "retention_models.json"
BY_ANSWERS, BY_WEIGHTS = "by_answers", "by_weights"
# What is proposed where a composition loses a skill: sparser members, of whole matrices so that ranks may differ.
PRUNED: Method = "ties_svd"
DENSITY = 0.5


def read_models(file: Path = FILE) -> dict[str, RetentionModel]:
    """Those that are shipped: for effects by recorded answers, and by weights alone."""
    return {name: RetentionModel(**own) for name, own in json.loads(file.read_text()).items()}


@dataclass(frozen=True, slots=True)
class SkillForecast:
    """Of one member's skill. strength: of that member in the composition; conflict: what costs most of what is lost

    by_weights: no answers of the members on each other's canaries are recorded, so that less is known
    """

    adapter: str
    retention: Interval
    strength: float
    conflict: NamedConflict
    tolerance: float
    by_weights: bool

    @property
    def is_expected_lost(self) -> bool:
        """More than tolerated, by the mean of the prediction."""
        return self.retention.mean < 1.0 - self.tolerance

    @property
    def is_surely_lost(self) -> bool:
        return self.retention.high < 1.0 - self.tolerance


@dataclass(frozen=True, slots=True)
class Forecast:
    """recipe: what was asked about; skills: in the order of its members"""

    recipe: Recipe
    skills: tuple[SkillForecast, ...]

    @property
    def worst(self) -> SkillForecast:
        """The one with the least retention; what is more than all of it counts as all."""
        return min(self.skills, key=lambda skill: min(1.0, skill.retention.mean))


@dataclass(frozen=True, eq=False)
class Forecaster:
    """Of the same members, in one order, by whatever recipe.

    names, adapters: of the members; recorded: adapter -> effects by the answers in its golden record, where it has all
    tolerances: adapter -> share of its strength that may be lost
    """

    names: tuple[str, ...]
    adapters: Sequence[LoraAdapter]
    recorded: Mapping[str, SkillEffects]
    tolerances: Mapping[str, float]
    models: Mapping[str, RetentionModel] = field(default_factory=read_models)

    @cached_property
    def factors(self) -> tuple[Mapping[str, Factors], ...]:
        return tuple(map(factors_of, self.adapters))

    @cached_property
    def overlap(self) -> WeightOverlap:
        return weight_overlap(self.factors)

    @cached_property
    def effects(self) -> tuple[SkillEffects, ...]:
        """By recorded answers where there are, else by the weights."""
        return tuple(self.recorded.get(name) or self.overlap.effects(i) for i, name in enumerate(self.names))

    def forecast(self, recipe: Recipe) -> Forecast:
        """Raises Refused and Unsupported for what cannot be composed."""
        if tuple(member.adapter for member in recipe.members) != self.names:
            raise Refused("members", ", ".join(member.adapter for member in recipe.members), ", ".join(self.names))
        strengths, rest = self.strengths(recipe)
        return Forecast(recipe, tuple(self._skill(i, strengths, float(rest[i])) for i in range(len(self.names))))

    def recommended_weights(self) -> Recipe:
        """The weights of a sum that keep most of the worst skill."""
        model = self._model(BY_WEIGHTS if any(skill.by_weights for skill in self.effects) else BY_ANSWERS)
        weights = best_weights(model, self.effects)
        return Recipe(tuple(map(Member, self.names, weights)), "cat")

    def pruned(self, recipe: Recipe) -> Recipe:
        """The same members and weights, each pruned and with the signs elected."""
        return Recipe(recipe.members, PRUNED, DENSITY, svd_rank=sum(adapter.r for adapter in self.adapters))

    def strengths(self, recipe: Recipe, made: Composed | None = None) -> tuple[Doubles, Doubles]:
        """(n,) of each member in the composition, and (n,) what it holds beside them, over the size of each.

        made: by this recipe; None: it is made here where it has to be
        """
        if recipe.method in WHOLE_SUMS:
            weights = np.array([member.weight for member in recipe.members], dtype=np.float64)
            return weights, np.zeros_like(weights)
        return strengths_in(made or compose(recipe, self.adapters), self.factors, self.overlap.products)

    def _skill(self, own: int, strengths: Doubles, rest: float) -> SkillForecast:
        effects, name = self.effects[own], self.names[own]
        model = self._model(BY_WEIGHTS if effects.by_weights else BY_ANSWERS)
        expected, tolerance = model.interval(effects, strengths, rest), self.tolerances[name]
        conflict = name_conflict(effects, strengths, expected.mean, tolerance)
        return SkillForecast(name, expected, float(strengths[own]), conflict, tolerance, effects.by_weights)

    def _model(self, name: str) -> RetentionModel:
        return self.models[name]
