"""The formula of predicted retention: what each part of it does, and its interval."""

from __future__ import annotations

import numpy as np
import pytest

from detectors.composition.prediction import RetentionModel, SkillEffects

LINE = np.array([0.0, 1.0])
SUM = RetentionModel(added=1.0, crowd=0.0, rest=0.0, width=0.2)


def skill(own: int, along: list[float], size: list[float], curve: list[float] | None = None) -> SkillEffects:
    """Whose others have these parts along it and these sizes, and nothing in common beside that."""
    scales = np.linspace(0.0, 1.0, len(curve)) if curve else LINE
    products = np.outer(along, along)
    np.fill_diagonal(products, np.square(size))
    return SkillEffects(own, products, scales, np.array(curve) if curve else LINE)


def test_effects_that_add_up_give_the_weighted_sum() -> None:
    tone = skill(0, [1.0, -0.5, 0.25], [1.0, 1.0, 1.0])
    assert SUM.retention(tone, np.array([0.5, 0.4, 1.0])) == pytest.approx(0.5 - 0.2 + 0.25)


def test_its_own_strength_is_read_from_the_recorded_curve() -> None:
    tone = skill(0, [1.0, 0.0], [1.0, 1.0], [0.0, 0.7, 1.0])
    assert tone.alone(np.array([0.5, 0.75])) == pytest.approx([0.7, 0.85])
    assert tone.alone(np.array(2.0)) == pytest.approx(1.6), "on the line through the last two"
    assert tone.alone(np.array(-0.5)) == -0.7


def test_what_others_push_elsewhere_costs_and_never_helps() -> None:
    model = RetentionModel(added=1.0, crowd=0.5, rest=2.0, width=0.2)
    tone = skill(1, [0.6, 1.0], [2.0, 1.0])
    assert tone.crowd(np.array([0.5, 1.0])) == pytest.approx(1.0), "the size of what the others push"
    assert model.retention(tone, np.array([0.5, 1.0])) == pytest.approx(1.3 / np.sqrt(1.5))
    assert model.retention(tone, np.array([0.5, 1.0]), rest=0.5) == pytest.approx(1.3 / np.sqrt(2.0))
    opposed = skill(0, [1.0, 0.5, -0.5], [1.0, 0.5, 0.5])
    assert opposed.crowd(np.array([1.0, 1.0, 1.0])) == pytest.approx(0.0), "two that cancel each other push nothing"


def test_a_skill_that_has_strength_to_spare_gives_way_less() -> None:
    """At half of its strength one keeps nearly all, one half, one next to nothing."""
    model, kept = RetentionModel(added=1.0, crowd=1.0, rest=0.0, width=0.2, power=1.0), []
    for at_half, sensitivity in ((0.875, 0.5), (0.5, 1.0), (0.02, 1.4)):
        tone = skill(0, [1.0, 0.0], [1.0, 1.0], [0.0, at_half, 1.0])
        assert tone.sensitivity == pytest.approx(sensitivity)
        kept.append(float(model.retention(tone, np.array([1.0, 1.0]))))
    assert kept == pytest.approx([1 / 1.5, 1 / 2, 1 / 2.4])


def test_the_interval_grows_with_what_is_predicted_to_be_lost() -> None:
    tone = skill(0, [1.0, 0.0], [1.0, 1.0])
    whole, half = (SUM.interval(tone, np.array([strength, 0.0])) for strength in (1.0, 0.5))
    assert whole.high - whole.low == pytest.approx(2 * 0.2 * 0.1)
    assert half.high - half.low == pytest.approx(2 * 0.2 * 0.6)


def test_many_weights_at_once_give_what_each_gives() -> None:
    model, tone = RetentionModel(0.9, 0.3, 0.5, 0.2), skill(1, [0.4, 1.0, -0.2], [2.0, 1.0, 0.5], [0.0, 0.8, 1.0])
    weights = np.random.default_rng(1).uniform(-1, 2, (5, 3))
    assert model.retention(tone, weights) == pytest.approx([float(model.retention(tone, row)) for row in weights])
