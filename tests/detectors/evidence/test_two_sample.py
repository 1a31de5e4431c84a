from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ks_2samp

from detectors.errors import ShapeMismatch
from detectors.evidence.two_sample import energy_distance, mmd2, permutation_p_values, principal_scores


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


def test_principal_scores_are_those_of_the_rows_together() -> None:
    x, y = rows(0, 7) * [5, 3, 1, 1, 1, 1], rows(1, 4, 2.0)
    before, after, explained = principal_scores(x, y, 2)
    together = np.concatenate([x, y]) - np.concatenate([x, y]).mean(axis=0)
    _, singular, directions = np.linalg.svd(together, full_matrices=False)
    assert np.abs(np.concatenate([before, after])) == pytest.approx(np.abs(together @ directions[:2].T))
    assert explained == pytest.approx((singular[:2] ** 2).sum() / (singular**2).sum())
    assert before.shape == (7, 2) and after.shape == (4, 2)


def test_rows_that_do_not_vary_have_no_directions() -> None:
    line = np.outer(np.arange(5.0), np.ones(6))
    before, _, explained = principal_scores(line, line[:2], 4)
    assert before.shape == (5, 1) and explained == pytest.approx(1.0)
    assert principal_scores(np.ones((3, 6)), np.ones((2, 6)), 4)[2] == 0.0
    with pytest.raises(ShapeMismatch):
        principal_scores(rows(0, 4), rows(0, 4)[:, :3], 2)


def test_a_rank_test_on_principal_scores_keeps_its_level() -> None:
    """Few rows in many directions, where directions fitted on the first sample would not: four standard errors."""

    def p_value(x: np.ndarray, y: np.ndarray) -> float:
        return float(ks_2samp(np.abs(x), np.abs(y)).pvalue)

    together, alone = [], []
    for seed in range(100):
        x, y = np.random.default_rng(seed).standard_normal((2, 20, 60))
        before, after, _ = principal_scores(x, y, 1)
        together.append(p_value(before[:, 0], after[:, 0]))
        direction = np.linalg.svd(x, full_matrices=False)[2][0]
        alone.append(p_value(x @ direction, y @ direction))
    assert np.mean(np.array(together) <= 0.05) <= 0.05 + 4 * np.sqrt(0.05 * 0.95 / 100)
    assert np.mean(np.array(alone) <= 0.05) > 0.5
