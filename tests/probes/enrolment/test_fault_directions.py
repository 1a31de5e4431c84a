from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detectors.canaries.retention import prepare
from probes.enrolment.fault_directions import features_of
from probes.enrolment.settings import EnrolmentContext
from probes.errors import Refused
from probes.runners import memory
from tests.probes.worlds import ADAPTERS, enrolled, never, opened, silent


def test_the_first_direction_is_the_adapter_itself() -> None:
    candidates = enrolled("alpha").canaries[:6]
    features = features_of(EnrolmentContext(opened(noise=0.0), "alpha", ["beta"], silent, never), candidates, 0.05)
    assert features.shape[0] == 6 and features.shape[1] == features.shape[2] >= 3
    for found in features:
        # Losing the adapter is a displacement of |delta|, twenty times what a tolerance of 5 % allows.
        assert found[0, 0] == pytest.approx(20**2, rel=1e-4)
        np.testing.assert_allclose(found, found.T)
        assert np.linalg.eigvalsh(found).min() >= -1e-6 * np.trace(found)


def test_another_adapter_is_a_direction_as_it_was_recorded() -> None:
    canary = enrolled("alpha").canaries[0]
    features = features_of(EnrolmentContext(opened(noise=0.0), "alpha", ["beta"], silent, never), [canary], 0.05)
    ready = prepare(canary.reference)
    table = np.where(ready.mask, canary.reference.others["beta"], 0.0)
    golden = np.where(ready.mask, canary.reference.golden_adapter.log_probs, 0.0)
    away = ready.vector(table.astype(np.float64) - golden)
    assert features[0, -1, -1] == pytest.approx(float(away @ away) / (0.05**2 * ready.energy), rel=1e-4)


def test_noise_makes_a_canary_worth_less() -> None:
    canaries = enrolled("alpha").canaries[:3]
    still, noisy = (
        features_of(EnrolmentContext(opened(noise=noise), "alpha", [], silent, never), canaries, 0.05)
        for noise in (0.0, 0.2)
    )
    assert (noisy[:, 0, 0] < 0.9 * still[:, 0, 0]).all()


def test_numbers_that_are_not_finite_are_refused_by_the_canary() -> None:
    runner = memory.Runner(memory.Config(adapters=dict(ADAPTERS)))
    runner.open()
    runner.inject("beta", "not_a_number")
    with pytest.raises(Refused, match=enrolled("alpha").canaries[0].id):
        context = EnrolmentContext(runner, "alpha", ["beta"], silent, never)
        features_of(context, [replace(enrolled("alpha").canaries[0])], 0.05)
