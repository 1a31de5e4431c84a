"""Predictions of a composition: from recorded answers where there are, of each method, and what is recommended."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detectors.composition.conflict import Conflict
from detectors.composition.prediction import RetentionModel
from probes.artefacts.lora_files import read_adapter
from probes.composition.displacements import skill_effects
from probes.composition.forecast import BY_ANSWERS, BY_WEIGHTS, Forecaster, read_models
from probes.composition.recipe import Member, Recipe
from probes.errors import Refused
from tests.probes.composition.conftest import Pair

NAMES = ("tone", "form")
SUM = RetentionModel(added=1.0, crowd=0.0, rest=0.0, width=0.1)


def forecaster(pair: Pair, recorded: bool = True) -> Forecaster:
    effects = {name: skill_effects(pair.goldens[name].canaries, name, NAMES) for name in NAMES if recorded}
    known = {name: own for name, own in effects.items() if own is not None}
    adapters = [read_adapter(pair.folders[name]) for name in NAMES]
    return Forecaster(NAMES, adapters, known, dict.fromkeys(NAMES, 0.05), {BY_ANSWERS: SUM, BY_WEIGHTS: SUM})


def recipe(*weights: float, method: str = "cat") -> Recipe:
    return Recipe(tuple(map(Member, NAMES, weights)), method)  # type: ignore[arg-type]


def test_a_sum_has_its_weights_for_strengths_whatever_the_ranks(pair: Pair) -> None:
    own = forecaster(pair)
    done = own.forecast(recipe(0.5, 1.0))
    assert [skill.strength for skill in done.skills] == [0.5, 1.0]
    effects = own.effects[1]
    assert done.skills[1].retention.mean == pytest.approx(1.0 + 0.5 * effects.along[0], abs=1e-5)
    assert done.worst.adapter == "tone" and done.worst.conflict.conflict is Conflict.DILUTED
    assert done.worst.is_expected_lost and not done.worst.by_weights


def test_strengths_of_another_method_are_read_from_what_it_makes(pair: Pair) -> None:
    done = forecaster(pair).forecast(recipe(0.6, 0.4, method="svd"))
    whole = replace(recipe(0.6, 0.4, method="svd"), svd_rank=8)
    assert [skill.strength for skill in forecaster(pair).forecast(whole).skills] == pytest.approx([0.6, 0.4], abs=1e-4)
    assert all(skill.strength < 0.6 + 1e-3 for skill in done.skills)


def test_without_recorded_answers_the_weights_alone_say_so(pair: Pair) -> None:
    done = forecaster(pair, recorded=False).forecast(recipe(1.0, 1.0))
    assert all(skill.by_weights for skill in done.skills)
    cosine = forecaster(pair).overlap.cosine(0, 1)
    assert np.sign(done.skills[0].retention.mean - 1.0) == np.sign(cosine)


def test_recommended_weights_are_expected_nearer_to_all_of_each(pair: Pair) -> None:
    own = forecaster(pair)
    best = own.recommended_weights()
    kept, equal = (own.forecast(wanted).worst.retention.mean for wanted in (best, recipe(1.0, 1.0)))
    assert abs(1.0 - kept) <= abs(1.0 - equal) and best.method == "cat"
    assert own.pruned(recipe(1.0, 1.0)).svd_rank == 8


def test_other_members_than_its_own_are_refused(pair: Pair) -> None:
    with pytest.raises(Refused, match="members"):
        forecaster(pair).forecast(Recipe((Member("form"), Member("tone"))))


def test_the_shipped_models_are_whole() -> None:
    models = read_models()
    assert set(models) == {BY_ANSWERS, BY_WEIGHTS}
    assert all(model.added >= 0 and model.width > 0 and model.coverage == 0.95 for model in models.values())
