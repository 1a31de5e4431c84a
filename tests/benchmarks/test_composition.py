"""Is what is fitted on compositions what generated them, and are the example's adapters among those measured?"""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.composition_parts.helpdesk import CANARIES, NAME, NAMES, helpdesk
from benchmarks.composition_parts.measured import Row
from benchmarks.composition_parts.predicted import fit, predictions
from benchmarks.composition_parts.sets import METHODS, cases
from detectors.composition.prediction import LEAST, RetentionModel
from probes.composition.forecast import BY_WEIGHTS


def row(skill: str, members: tuple[str, ...], by: tuple[float, float, float], rest: float, retention: float) -> Row:
    names, strength = f"cat of {members} {by}", by[0]
    return Row("ant", names, "cat", members, (1.0, 1.0), skill, retention, strength, rest, {BY_WEIGHTS: by}, {})


def made_by(model: RetentionModel, biases: dict[str, float]) -> list[Row]:
    """Compositions of three skills with this bias of each. The predictor knows no bias."""
    draw, rows = np.random.default_rng(3), []
    for skill, bias in biases.items():
        for _ in range(30):
            alone, added, crowd, rest = draw.uniform((0.3, -0.3, 0.0, 0.0), (1.0, 0.5, 1.5, 0.8))
            plain = row(skill, (skill, "other"), (alone, added, crowd), rest, 0.0)
            kept = float(predictions([plain], model, BY_WEIGHTS)[0]) + bias
            rows.append(row(skill, (skill, "other"), (alone, added, crowd), rest, kept))
    return rows


def test_a_fit_is_what_the_compositions_were_made_by() -> None:
    model = RetentionModel(added=0.9, crowd=2.0, rest=0.5, width=0.0, power=0.4)
    fitted = fit(made_by(model, {"a": 0.0, "b": 0.0, "c": 0.0}), BY_WEIGHTS)
    known = (fitted.added, fitted.crowd, fitted.rest, fitted.power)
    assert known == pytest.approx((0.9, 2.0, 0.5, 0.4), rel=0.02) and fitted.width < 0.01


def test_an_interval_is_as_wide_as_the_skill_that_was_missed_most() -> None:
    """One skill that keeps .2 less than is predicted: 95 % over all rows would leave a part of it out."""
    rows = made_by(RetentionModel(0.9, 2.0, 0.5, 0.0, power=0.4), {"a": 0.0, "b": 0.0, "c": -0.2})
    fitted = fit(rows, BY_WEIGHTS)
    odd = [own for own in rows if own.skill == "c"]
    predicted = predictions(odd, fitted, BY_WEIGHTS)
    missed = np.abs(predicted - [own.retention for own in odd])
    assert (missed <= fitted.width * (LEAST + np.abs(1.0 - predicted))).mean() >= 0.95


def test_the_example_brings_every_pair_and_the_triple_by_every_method() -> None:
    base = helpdesk()
    every = list(cases(base.name, NAMES, quick=False))
    assert base.name == NAME and len(every) == len(METHODS) * 4
    assert all(len(canaries) == CANARIES for canaries in base.goldens.values())
    effects = base.effects(NAMES)
    assert set(effects) == set(NAMES), "the records hold each other's answers"
