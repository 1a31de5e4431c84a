from __future__ import annotations

import numpy as np
import pytest

from detectors.evidence.e_detector import advance, fresh, level
from detectors.kinds.adapter_gap import Config, Detector
from tests.detectors.synthetic import make_base_round

FLEET = 21.5


@pytest.mark.parametrize(
    "fault, draws, rounds",
    [
        ("not_applied", 9, 1),
        ("not_applied", 16, 1),
        ("scale:0.9", 16, 1),
        ("adapter:rewriter", 16, 1),
        ("scale:2", 32, 1),
    ],
)
def test_pages_at_the_fleets_threshold_in_the_first_round(fault: str, draws: int, rounds: int) -> None:
    detector = Detector(Config())
    seen = [detector.update(make_base_round({"router": fault}, number, draws))[0].log_e for number in range(rounds)]
    assert seen[-1] >= FLEET


def test_evidence_of_a_round_is_one_tick_however_many_draws() -> None:
    (found,) = Detector(Config()).update(make_base_round({"router": "not_applied"}, 0, draws=16))
    assert found.log_e == pytest.approx(float(level(advance(fresh(1), np.ones((1, 16), bool), 0.05))[0]))
    assert found.n == 16


def test_adapters_have_processes_of_their_own() -> None:
    lost, well = Detector(Config()).update(make_base_round({"router": "not_applied", "rewriter": "healthy"}))
    assert (lost.subject, well.subject) == ("router", "rewriter")
    assert lost.log_e >= FLEET > 0.0 > well.log_e
