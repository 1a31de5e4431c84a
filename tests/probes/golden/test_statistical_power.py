from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from detectors.canaries.tolerance import Tolerances
from detectors.evidence.e_detector import advance, fresh, level
from detectors.records import CanarySplit, Reference
from probes.golden.statistical_power import AlarmSettings, draws_to_alarm, statistical_power, strong_enough
from tests.probes.goldens import FLEET, reference


def pool(strength: float = 2.0, noise: float = 1e-4) -> list[Reference]:
    return [reference(f"c{index}", CanarySplit.SELECTED, 14, index, strength, noise) for index in range(12)]


def test_losses_beyond_the_tolerance_page_and_those_within_never_do() -> None:
    seen = statistical_power("router", pool(), Tolerances(), FLEET)
    half, tenth, twentieth = seen.losses
    assert seen.monitorable
    assert (half.share, tenth.share, twentieth.share) == (1.0, 1.0, 0.0)
    assert (half.draws, tenth.draws, twentieth.draws) == (8, 8, None)
    assert "a 10% loss needs 1 round of 12 draws" in seen.words
    assert "a 5% loss stays within the tolerance" in seen.words
    assert "more than 5.0% of canaries are more than 5.0% weaker or stronger" in seen.words


def test_more_draws_than_a_round_holds_take_more_rounds() -> None:
    assert (
        "a 50% loss needs 2 rounds of 4 draws"
        in statistical_power("router", pool(), Tolerances(), AlarmSettings(21.5, 4)).words
    )


def test_what_a_round_takes_is_said_where_it_is_known() -> None:
    plain = statistical_power("router", pool(), Tolerances(), FLEET).words
    known = statistical_power("router", pool(), Tolerances(), AlarmSettings(21.5, 12, 181.4, 1999.6)).words
    assert known == f"{plain}; a round scores about 181 positions and processes 2000 tokens for them"


def test_a_loss_between_two_recorded_ends_is_said_to_be_one_of_the_straight_way() -> None:
    """An engine serves strengths 0 and 1 alone, and half a LoRA's scale is no loss of one half on the line between."""
    ends = [replace(r, scales=r.scales[[0, -1]], curve=r.curve[[0, -1]]) for r in map(up_to_one, pool())]
    words = statistical_power("router", ends, Tolerances(), FLEET).words
    assert "at half of its LoRA scale an adapter may have lost 30% of that way" in words
    assert "straight way" not in statistical_power("router", pool(), Tolerances(), FLEET).words


def up_to_one(known: Reference) -> Reference:
    whole = known.scales <= 1
    return replace(known, scales=known.scales[whole], curve=known.curve[whole])


def test_noise_as_wide_as_the_tolerance_is_no_power() -> None:
    seen = statistical_power("router", pool(noise=0.06), Tolerances(), FLEET)
    assert not seen.monitorable
    assert "unmonitorable" in seen.words
    assert statistical_power("router", pool(noise=0.06), Tolerances(per_adapter={"router": 0.2}), FLEET).monitorable


@pytest.mark.parametrize("share", [1.0, 0.6, 0.3])
def test_the_number_of_draws_is_that_of_the_e_detector_itself(share: float) -> None:
    promised = draws_to_alarm(share, 0.05, 21.5)
    assert promised is not None
    generator = np.random.default_rng(4)
    taken = []
    for _ in range(60):
        log_m, count = fresh(1), 0
        while level(log_m)[0] < 21.5:
            log_m, count = advance(log_m, generator.random((1, 1)) < share, 0.05), count + 1
        taken.append(count)
    assert math.isclose(float(np.mean(taken)), promised, rel_tol=0.35)


def test_a_share_within_the_null_never_alarms() -> None:
    assert draws_to_alarm(0.05, 0.05, 21.5) is None
    assert draws_to_alarm(0.0, 0.05, 21.5) is None


def test_a_canary_without_effect_is_too_weak() -> None:
    assert strong_enough(reference("loud", CanarySplit.SELECTED, 14, 0, strength=2.0), 0.01)
    assert not strong_enough(reference("quiet", CanarySplit.SELECTED, 14, 0, strength=0.02), 0.01)
