"""Is the interval around an accuracy the one that Wilson wrote down?"""

import numpy as np
import pytest

from examples.helpdesk.evaluate import wilson


@pytest.mark.parametrize(
    ("right", "n", "low", "high"), [(81, 263, 0.2553, 0.3662), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0)]
)
def test_wilson_matches_published_values(right: int, n: int, low: float, high: float) -> None:
    assert wilson(right, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_covers_the_true_share() -> None:
    rng = np.random.default_rng(0)
    inside = [low <= 0.9 <= high for low, high in (wilson(int(k), 100) for k in rng.binomial(100, 0.9, 4000))]
    assert 0.93 < np.mean(inside) < 0.97
