"""Does the interval hold what it says, is a base that has not learnt the task rarely said to pass, and is a broken
adapter never taken for a superfluous one?"""

from __future__ import annotations

import math

import numpy as np
import pytest

from detectors.economics.worth import (
    CheckedAnswers,
    Passes,
    Worth,
    WorthRules,
    assess,
    lower_bound,
    paired_difference,
    upper_bound,
)
from detectors.errors import ShapeMismatch

RULES = WorthRules()


def passes(right: int, of: int) -> Passes:
    return np.arange(of) < right


def test_the_bounds_are_those_of_clopper_and_pearson() -> None:
    # scipy.stats.binomtest(3, 40).proportion_ci(method="exact"), two-sided 95 %
    assert lower_bound(3, 40, 0.025) == pytest.approx(0.015742, abs=1e-6)
    assert upper_bound(3, 40, 0.025) == pytest.approx(0.203864, abs=1e-6)
    assert (lower_bound(0, 40, 0.025), upper_bound(40, 40, 0.025), upper_bound(0, 0, 0.025)) == (0.0, 1.0, 1.0)


@pytest.mark.parametrize(("only_adapter", "only_base"), [(0.0, 0.0), (0.8, 0.02), (0.1, 0.1), (0.3, 0.05), (0.02, 0.0)])
@pytest.mark.parametrize("n", [12, 48])
def test_the_interval_of_the_gain_holds_the_truth(only_adapter: float, only_base: float, n: int) -> None:
    random = np.random.default_rng(7)
    misses = 0
    for _ in range(400):
        drawn = random.random(n)
        first, second = drawn < only_adapter, (drawn >= only_adapter) & (drawn < only_adapter + only_base)
        found = paired_difference(first, second)
        misses += not found.low <= only_adapter - only_base <= found.high
    assert misses / 400 <= 0.05


def test_a_base_at_the_margin_is_said_to_pass_no_more_often_than_allowed() -> None:
    random = np.random.default_rng(3)
    accepted = np.ones(48, bool)
    said = 0
    for _ in range(2000):
        base = random.random(48) >= RULES.margin  # it fails exactly the margin
        said += assess(CheckedAnswers(accepted, accepted, base), RULES).worth is Worth.BASE_PASSES
    assert said / 2000 <= RULES.alpha


def test_a_base_that_has_learnt_the_task_passes() -> None:
    found = assess(CheckedAnswers(passes(48, 48), passes(48, 48), passes(47, 48), passes(4, 48)), RULES)
    assert found.worth is Worth.BASE_PASSES and found.base_loss_high <= 0.1
    assert found.left is not None and found.left[0] == pytest.approx((1 / 48) / (44 / 48))
    assert found.left[1] <= found.left[0] <= found.left[2]


def test_a_broken_adapter_is_lost_and_not_superfluous() -> None:
    """Where adapter and base fail alike, the difference alone would say that the base is as good."""
    found = assess(CheckedAnswers(passes(48, 48), passes(2, 48), passes(2, 48)), RULES)
    assert found.gain.mean == 0.0 and found.worth is Worth.LOST


def test_an_adapter_that_is_needed_adds_and_keeps_its_gain() -> None:
    found = assess(CheckedAnswers(passes(46, 48), passes(46, 48), passes(3, 48), passes(3, 48)), RULES)
    assert found.worth is Worth.ADDS and found.gain.low > 0.5 and found.left is not None and found.left[0] == 1.0


def test_too_few_canaries_say_nothing_of_the_base() -> None:
    n = RULES.canaries_needed
    assert n == 29
    for count, wanted in ((n - 1, Worth.UNCLEAR), (n, Worth.BASE_PASSES)):
        every = passes(count, count)
        assert assess(CheckedAnswers(every, every, every), RULES).worth is wanted


def test_no_canary_is_no_verdict() -> None:
    none = np.zeros(0, bool)
    found = assess(CheckedAnswers(none, none, none), RULES)
    assert found.worth is Worth.UNCLEAR and math.isnan(found.gain.mean) and (found.gain.low, found.gain.high) == (-1, 1)


def test_an_original_gain_that_may_be_none_is_no_yardstick() -> None:
    found = assess(CheckedAnswers(passes(10, 20), passes(10, 20), passes(9, 20), passes(9, 20)), RULES)
    assert found.original is not None and found.left is None


def test_sides_of_other_lengths_are_refused() -> None:
    with pytest.raises(ShapeMismatch):
        CheckedAnswers(passes(1, 3), passes(1, 3), passes(1, 2))
