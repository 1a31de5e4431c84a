from __future__ import annotations

import numpy as np
import pytest

from detectors.errors import ShapeMismatch
from detectors.evidence.two_sample import energy_distance, mmd2, permutation_p_values


def rows(seed: int, n: int, moved: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, 6)) + moved


def test_a_shift_is_seen_and_none_is_not() -> None:
    moved = permutation_p_values(rows(0, 40), rows(1, 30, 0.8))
    assert max(moved.values()) == pytest.approx(1 / 501)
    assert min(permutation_p_values(rows(0, 40), rows(1, 30)).values()) > 0.05


def test_p_values_are_valid() -> None:
    """Under the null at most 5 % below .05, and four standard errors over 150 pairs."""
    below = [min(permutation_p_values(rows(2 * i, 12), rows(2 * i + 1, 12), 99)["mmd"], 1) <= 0.05 for i in range(150)]
    assert np.mean(below) <= 0.05 + 4 * np.sqrt(0.05 * 0.95 / 150)


def test_the_formulas_on_four_points() -> None:
    x, y = np.array([[0.0], [1.0]]), np.array([[3.0], [4.0]])
    assert energy_distance(x, y) == pytest.approx(2 * 3.0 - 0.5 - 0.5)
    width = np.median([1, 3, 4, 2, 3, 1])
    k = lambda d: np.exp(-((d / width) ** 2) / 2)  # noqa: E731
    assert mmd2(x, y) == pytest.approx(2 * k(1) - 2 * np.mean([k(3), k(4), k(2), k(3)]))


def test_samples_of_other_widths_are_refused() -> None:
    with pytest.raises(ShapeMismatch):
        mmd2(rows(0, 4), rows(0, 4)[:, :3])
    with pytest.raises(ShapeMismatch):
        energy_distance(rows(0, 1), rows(0, 4))
