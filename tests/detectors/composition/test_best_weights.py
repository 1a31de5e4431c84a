"""The weights that keep most of the worst skill."""

from __future__ import annotations

import numpy as np
import pytest

from detectors.composition.best_weights import best_weights
from detectors.composition.prediction import RetentionModel
from tests.detectors.composition.test_prediction import SUM, skill


def test_skills_that_do_not_touch_each_other_keep_their_weight() -> None:
    skills = [skill(0, [1.0, 0.0], [1.0, 1.0]), skill(1, [0.0, 1.0], [1.0, 1.0])]
    assert best_weights(SUM, skills) == (1.0, 1.0)


def test_a_skill_that_is_taken_away_gets_more() -> None:
    """Where each takes a fifth of the other, 1.25 of both gives all of both back."""
    skills = [skill(0, [1.0, -0.2], [1.0, 1.0]), skill(1, [-0.2, 1.0], [1.0, 1.0])]
    weights = best_weights(SUM, skills)
    assert weights == pytest.approx((1.25, 1.25))
    assert min(float(SUM.retention(own, np.array(weights))) for own in skills) == pytest.approx(1.0)


def test_excess_of_one_is_no_way_to_keep_another() -> None:
    """What is along each other's way is given once."""
    skills = [skill(0, [1.0, 0.8], [1.0, 1.0]), skill(1, [0.8, 1.0], [1.0, 1.0])]
    weights = best_weights(SUM, skills)
    kept = [SUM.retention(own, np.array(weights)) for own in skills]
    assert all(0.95 <= value <= 1.05 for value in kept) and sum(weights) < 1.3


def test_never_worse_than_equal_weights() -> None:
    model, draw = RetentionModel(0.9, 0.3, 0.5, 0.2), np.random.default_rng(2)
    for _ in range(20):
        along = draw.uniform(-0.6, 0.6, (3, 3))
        np.fill_diagonal(along, 1.0)
        size = np.maximum(np.abs(along), draw.uniform(0.3, 3.0, (3, 3)))
        skills = [skill(i, along[i].tolist(), size[i].tolist()) for i in range(3)]
        gains = []
        for weights in (best_weights(model, skills), (1.0, 1.0, 1.0), (1 / 3, 1 / 3, 1 / 3)):
            kept = [float(model.retention(own, np.array(weights))) for own in skills]
            gains.append(min(1.0, *kept) - 0.5 * max(0.0, max(kept) - 1.0))
        assert gains[0] >= max(gains[1:]) - 1e-9
