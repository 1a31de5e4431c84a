"""The alternative that is named explains the words best on responses that it was compared on."""

from __future__ import annotations

import json

import numpy as np
import pytest

from detectors.evidence.alternative import (
    BASE,
    FOUR_BITS,
    HALF_STRENGTH,
    Alternative,
    interpolation,
    other_adapter,
    rounded,
    without,
)
from detectors.traffic.leading_alternative import Explanations
from detectors.traffic_records import ScoringMode, TrafficScore

NEAR, MLP, ATTENTION = interpolation(0.75), without("mlp"), without("attention")


def score(**log_l: float) -> TrafficScore:
    """By the names of ``NAMES``."""
    values = np.array(list(log_l.values()), np.float32)
    return TrafficScore("router", "r", "", 0.0, ScoringMode.SAMPLED, 14, tuple(NAMES[name] for name in log_l), values)


NAMES: dict[str, Alternative] = {
    "base": BASE, "near": NEAR, "half": HALF_STRENGTH, "four": FOUR_BITS, "eight": rounded("8"), "mlp": MLP,
    "attention": ATTENTION, "other": other_adapter("tone"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("scores", "leading"),
    [
        ([score(base=-13.0, near=25.0, mlp=34.0)], MLP),
        ([score(base=-77.0, near=0.4, attention=1.3, mlp=-40.0)] * 6, ATTENTION),
        # What is as good as accepted explains less than half a nat of what is wrong: it is not what is at fault.
        ([score(base=-77.0, near=0.4, attention=1.3, eight=-0.1)] * 6, ATTENTION),
        ([score(base=-20.0, near=-6.0, eight=-0.1)] * 20, NEAR),
        # Scored on other responses: each is compared with what leads on its own ones.
        ([score(base=90.0, near=30.0), score(base=-10.0, near=20.0, four=60.0)], FOUR_BITS),
        ([score(base=5.0, near=2.0, half=6.0)], BASE),
    ],
    ids=["a block", "a weak one", "a weak one beside 8 bits", "nothing but the path", "on other ones", "the base"],
)
def test_who_leads(scores: list[TrafficScore], leading: Alternative) -> None:
    assert Explanations.of(scores, of_bad=False).leading == leading


def test_responses_that_are_clearly_against_it_count_alone() -> None:
    healthy = Explanations.of([score(base=-50.0, near=-10.0)] * 20, of_bad=False)
    bad = Explanations.of([score(base=10.0, near=30.0, four=60.0)] * 2, of_bad=True)
    both = healthy.joined(bad)
    assert both == bad and both.joined(healthy) == bad
    assert bad.joined(bad).by[FOUR_BITS].n == 4


def test_nothing_leads_without_responses_nor_where_the_base_explains_its_own_best() -> None:
    assert Explanations().leading is None
    assert Explanations.of([score(other=-3.0)], of_bad=False).leading is None
    assert Explanations.of([score(other=3.0, four=9.0)], of_bad=False).leading == FOUR_BITS


def test_saved_and_read_again_it_goes_on() -> None:
    one = Explanations.of([score(base=-13.0, near=25.0, mlp=34.0)], of_bad=True)
    again = Explanations.from_json(json.loads(json.dumps(one.to_json())))
    assert again == one and again.joined(one) == one.joined(one)
