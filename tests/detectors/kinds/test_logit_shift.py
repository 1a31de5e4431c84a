from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from detectors.canaries.tolerance import Tolerances
from detectors.kinds import adapter_gap
from detectors.kinds.logit_shift import Config, Detector, moved
from detectors.records import Round
from tests.detectors.synthetic import make_base_round, make_round


def shifted(size: float) -> Round:
    """A round in which every canary is served ``size`` of the adapter's effect away from what was accepted."""
    round = make_round("router", "healthy")
    return replace(round, measurements=tuple(replace(m, frozen_shift=size**2) for m in round.measurements))


def test_a_canary_counts_beyond_the_tolerance_and_its_noise_floors() -> None:
    noise = make_round("router", "healthy").measurements[0].comparison.reference.noise
    edge = 0.05 + noise.scale + noise.distortion + math.sqrt(noise.base_shift)
    assert not moved(shifted(edge - 1e-6), Tolerances()).any()
    assert moved(shifted(edge + 1e-6), Tolerances()).all()
    assert not moved(shifted(edge + 1e-6), Tolerances(per_adapter={"router": 0.07})).any()


def test_a_base_that_moved_and_is_survived_raises_it_and_it_only_informs() -> None:
    tolerances = Tolerances(scale=0.01)
    detector, gap = Detector(Config(tolerances)), adapter_gap.Detector(adapter_gap.Config(tolerances))
    rounds = [make_base_round({"router": "improved"}, number) for number in range(4)]
    found = [detector.update(round)[0] for round in rounds]
    assert found[-1].log_e > 21.5
    assert not any(e.pages for e in found)
    assert max(gap.update(round)[0].log_e for round in rounds) < 0.0
    assert Detector(Config(tolerances, pages=True)).update(rounds[0])[0].pages


@pytest.mark.parametrize("figure", [math.nan, math.inf])
def test_without_the_figure_nothing_is_said(figure: float) -> None:
    round = make_round("router", "not_applied")
    first, *rest = round.measurements
    assert len(moved(replace(round, measurements=(replace(first, frozen_shift=figure), *rest)), Tolerances())) == 0


def test_a_canary_drawn_twice_counts_twice() -> None:
    assert len(moved(make_round("router", "healthy", draws=16), Tolerances())) == 16
    assert moved(make_round("router", "not_applied", draws=16), Tolerances()).dtype == np.bool_
