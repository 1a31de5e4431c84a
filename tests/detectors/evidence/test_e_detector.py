from __future__ import annotations

import math

import numpy as np
import pytest

from detectors.errors import Refused, ShapeMismatch
from detectors.evidence.e_detector import (
    LARGEST,
    advance,
    count_factors,
    fresh,
    grid,
    level,
    nats,
    step,
    step_cusum,
    value_factors,
)


def test_top_bet_cannot_be_ruined_and_each_next_is_half() -> None:
    g = grid(0.05)
    assert g[0] == pytest.approx(19.0)
    assert np.allclose(g[1:] / g[:-1], 0.5)
    assert (1 - g * 0.05 > 0).all()
    with pytest.raises(Refused):
        grid(0.0)


def test_one_round_is_the_product_of_its_factors_times_m_plus_one() -> None:
    scores = np.array([[True, False, True]])
    once = advance(fresh(1), scores, 0.05)
    plain = np.prod([1 + grid(0.05) * (s - 0.05) for s in (1, 0, 1)], axis=0)
    assert np.allclose(np.exp(once[0]), plain)
    twice = advance(once, scores, 0.05)
    assert np.allclose(np.exp(twice[0]), plain * (plain + 1))


def test_bool_scores_and_the_same_numbers_give_the_same() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random((5, 12)) < 0.4
    mask = rng.random((5, 12)) < 0.7
    start = rng.normal(size=(5, 8))
    fast = advance(start, scores, 0.05, mask)
    assert np.allclose(fast, advance(start, scores.astype(np.float64), 0.05, mask))


def test_many_streams_at_once_equal_each_alone() -> None:
    rng = np.random.default_rng(1)
    scores = rng.random((7, 9)) < 0.2
    start = rng.normal(size=(7, 8))
    alone = np.vstack([advance(start[i : i + 1], scores[i : i + 1], 0.05) for i in range(7)])
    assert np.array_equal(advance(start, scores, 0.05), alone)


def test_a_stream_without_draws_keeps_its_evidence_without_the_plus_one() -> None:
    start = np.array([[1.0] * 8, [2.0] * 8])
    mask = np.array([[False] * 4, [True, False, False, False]])
    after = advance(start, np.ones((2, 4), bool), 0.05, mask)
    assert np.array_equal(after[0], start[0])
    assert (after[1] > start[1]).all()
    assert np.array_equal(advance(start, np.ones((2, 0), bool), 0.05), start)


def test_level_is_the_log_of_the_mean_and_free_of_nan() -> None:
    some = np.log(np.array([[1.0, 3.0, 5.0, 7.0]]))
    assert level(some)[0] == pytest.approx(math.log(4.0))
    assert level(fresh(2)).tolist() == [-math.inf, -math.inf]
    assert np.isfinite(level(np.array([[800.0, -np.inf]]))).all()


def test_a_page_at_the_fleets_threshold_takes_eight_or_nine_broken_draws() -> None:
    """(21.5 + ln 8) / 2.95: the floor of docs/mathematics.md#e-detector."""

    def nats(n: int) -> float:
        return float(level(advance(fresh(1), np.ones((1, n), bool), 0.05))[0])

    assert nats(7) < 21.5 <= nats(9)
    assert nats(32) > 90


def test_a_million_healthy_rounds_overflow_nothing() -> None:
    log_m = fresh(1000)
    for _ in range(1000):
        log_m = advance(log_m, np.zeros((1000, 16), bool), 0.05)
    assert np.isfinite(log_m).all()
    assert (level(log_m) < 1.0).all()


def test_scores_of_another_shape_are_refused() -> None:
    with pytest.raises(ShapeMismatch):
        advance(fresh(2), np.ones((3, 4), bool), 0.05)


@pytest.mark.parametrize("draws", [1, 9, 32])
def test_what_runs_equals_the_reference(draws: int) -> None:
    """200 streams, 50 rounds, every share of draws beyond from none to all."""
    rng = np.random.default_rng(2)
    m, log_m = np.zeros((200, 8)), fresh(200)
    for _ in range(50):
        scores = rng.random((200, draws)) < np.linspace(0, 1, 200)[:, None]
        ones = np.count_nonzero(scores, axis=1)
        step(m, count_factors(ones, draws, 0.05))
        log_m = np.minimum(advance(log_m, scores, 0.05), math.log(LARGEST))
    assert np.allclose(np.log(m), log_m, rtol=1e-9, atol=1e-9)
    assert np.allclose(nats(m), level(log_m))


def test_factors_of_uneven_draws_and_of_any_scores_equal_those_of_counts() -> None:
    rng = np.random.default_rng(3)
    scores = rng.random((6, 12)) < 0.3
    ones = np.count_nonzero(scores, axis=1)
    fast = count_factors(ones, 12, 0.05)
    assert np.allclose(fast, count_factors(ones, np.full(6, 12), 0.05))
    assert np.allclose(fast, value_factors(scores.astype(np.float64), 0.05))
    assert np.array_equal(count_factors(np.zeros(1, np.int64), np.zeros(1, np.int64), 0.05), np.ones((1, 8)))


def test_whole_pools_beyond_for_ever_stay_finite_and_so_do_thousands_of_draws() -> None:
    m, w = np.zeros((2, 8)), np.zeros((2, 8))
    for draws in (32, 100, 5000) * 20:
        factors = count_factors(np.array([0, draws]), draws, 0.05)
        step(m, factors)
        step_cusum(w, factors)
    assert np.isfinite(m).all() and np.isfinite(w).all()
    assert np.isfinite(nats(m)).all() and np.isfinite(nats(np.zeros((1, 1)))).all()
    assert nats(m)[1] > 250


def test_the_cusum_statistic_is_the_largest_product_over_all_rounds_the_fault_could_have_begun_in() -> None:
    """And the round of its last restart is the one that gives this product."""
    rng = np.random.default_rng(4)
    factors = [count_factors(np.array([k]), 4, 0.05) for k in rng.choice(4, size=40, p=[0.7, 0.2, 0.05, 0.05])]
    w, began_in = np.zeros((1, 8)), np.zeros(8, int)
    for t in range(40):
        began_in = np.where(step_cusum(w, factors[t])[0], t, began_in)
        products = np.stack([np.prod([f[0] for f in factors[start : t + 1]], axis=0) for start in range(t + 1)])
        assert np.allclose(w[0], products.max(axis=0))
        assert np.allclose(products[began_in, np.arange(8)], w[0])
