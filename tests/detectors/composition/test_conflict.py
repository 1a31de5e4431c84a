"""Which conflict costs a skill, named from what costs most."""

from __future__ import annotations

import numpy as np
import pytest

from detectors.composition.conflict import Conflict, NamedConflict, name_conflict
from detectors.composition.prediction import SkillEffects
from tests.detectors.composition.test_prediction import skill


@pytest.mark.parametrize(
    ("effects", "strengths", "retention", "wanted"),
    [
        (skill(0, [1.0, 0.0], [1.0, 1.0]), (1.0, 1.0), 0.97, NamedConflict(Conflict.NONE, 0)),
        (skill(0, [1.0, 0.0], [1.0, 1.0]), (0.5, 0.5), 0.5, NamedConflict(Conflict.DILUTED, 0)),
        (skill(0, [1.0, 0.1, -0.6], [1.0, 1.0, 1.0]), (1.0, 1.0, 1.0), 0.5, NamedConflict(Conflict.SIGN, 2)),
        (skill(1, [0.0, 1.0], [6.0, 1.0]), (1.0, 1.0), 0.3, NamedConflict(Conflict.MAGNITUDE, 0)),
        (skill(1, [0.0, 1.0], [1.1, 1.0]), (1.0, 1.0), 0.6, NamedConflict(Conflict.SEMANTIC, 0)),
    ],
)
def test_each_conflict_by_what_costs_most(
    effects: SkillEffects, strengths: tuple[float, ...], retention: float, wanted: NamedConflict
) -> None:
    assert name_conflict(effects, np.array(strengths), retention, tolerance=0.05) == wanted
