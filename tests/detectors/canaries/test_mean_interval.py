from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import t

from detectors.canaries.mean_interval import mean_interval


def test_interval_is_students() -> None:
    values = [0.9, 1.0, 0.95, 1.02, 0.99]
    found = mean_interval(values)
    low, high = t.interval(0.95, 4, loc=np.mean(values), scale=np.std(values, ddof=1) / math.sqrt(5))
    assert (found.mean, found.low, found.high) == pytest.approx((0.972, low, high))
    assert found.n == 5


def test_one_value_has_a_mean_and_no_bounds_and_none_has_nothing() -> None:
    one, none = mean_interval([0.5]), mean_interval([])
    assert one.mean == 0.5 and math.isnan(one.low) and one.n == 1
    assert math.isnan(none.mean) and none.n == 0


def test_interval_covers_the_mean_95_times_in_100() -> None:
    """Skewed values, 12 canaries; 2,000 cases, bounds of the binomial at 4 standard errors."""
    rng = np.random.default_rng(0)
    draws = rng.beta(8, 2, size=(2000, 12))
    found = [mean_interval(row.tolist()) for row in draws]
    covered = np.mean([i.low <= 0.8 <= i.high for i in found])
    assert abs(covered - 0.95) < 0.02
