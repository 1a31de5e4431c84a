"""What golden records say of a composition before it exists."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detectors.canaries.retention import prepare
from probes.composition.displacements import skill_effects
from tests.probes.composition.conftest import Pair


def test_a_member_lies_along_itself_and_the_other_as_recorded(pair: Pair) -> None:
    golden = pair.goldens["form"]
    effects = skill_effects(golden.canaries, "form", ("tone", "form"))
    assert effects is not None and effects.own == 1 and not effects.by_weights
    assert effects.along[1] == pytest.approx(1.0) and effects.size[1] == pytest.approx(1.0)
    shares = []
    for canary in golden.canaries:
        ready = prepare(canary.reference)
        shares.append(ready.from_base(canary.reference.others["tone"]) @ ready.delta / ready.energy)
    assert effects.along[0] == pytest.approx(np.mean(shares))
    assert effects.alone(np.array([0.0, 1.0])) == pytest.approx([0.0, 1.0], abs=1e-6)


def test_a_member_that_is_not_recorded_leaves_nothing_known(pair: Pair) -> None:
    canaries = pair.goldens["tone"].canaries
    assert skill_effects(canaries, "tone", ("tone", "safety")) is None
    assert skill_effects((), "tone", ("tone", "form")) is None
    bare = [replace(canary, reference=replace(canary.reference, others={})) for canary in canaries]
    assert skill_effects(bare, "tone", ("tone", "form")) is None
