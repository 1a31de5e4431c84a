from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from detectors.canaries.confidence_sequence import HIGHEST, LOWEST, Confidence, held_out_retentions
from detectors.records import Interval
from tests.detectors.synthetic import make_round

PATHS, ROUNDS, POOL = 400, 200, 24
Advance = Callable[[Confidence, Sequence[float]], Confidence]


def steady(_path: int, _rng: np.random.Generator) -> np.ndarray:
    """One pool whose canaries differ as much as the bounds allow."""
    return np.tile(np.where(np.arange(POOL) < POOL // 3, LOWEST, HIGHEST), (ROUNDS, 1))


def wandering(path: int, rng: np.random.Generator) -> np.ndarray:
    """A round effect that all canaries share, another one in every round, and canaries that scatter around it."""
    effect = 0.5 + 0.5 * np.sin(0.05 * np.arange(ROUNDS) + path) + 0.3 * rng.standard_normal(ROUNDS)
    return effect[:, None] + 0.5 * rng.standard_normal(POOL)


def nearly_quiet(path: int, rng: np.random.Generator) -> np.ndarray:
    """As in production: one whole canary lost, the others intact."""
    return np.where(np.arange(POOL) == path % POOL, 0.0, 1.0) + 0.001 * rng.standard_normal((ROUNDS, POOL))


def interval_of(state: Confidence) -> Interval:
    found = state.interval()
    assert found is not None
    return found


def missed(pools: Callable[..., np.ndarray], canaries: int, advance: Advance) -> tuple[float, float]:
    """Share of paths on which the interval ever leaves the truth outside, and the mean half-width at the end.

    The truth after each round: the mean over rounds, weighted by bet and canaries, of the mean over the (clipped) pool.
    """
    ever, half = 0, []
    for path in range(PATHS):
        rng = np.random.default_rng([7, path])
        pool = np.clip(pools(path, rng), LOWEST, HIGHEST)
        means, seen = pool.mean(axis=1).tolist(), rng.permuted(pool, axis=1)[:, :canaries]
        state, truth, out = Confidence(), 0.0, False
        for mean, drawn in zip(means, seen, strict=True):
            before = state.weight
            state = advance(state, drawn.tolist())
            truth += (state.weight - before) * mean
            found = interval_of(state)
            out |= not found.low <= truth / state.weight <= found.high
        ever += out
        half.append((found.high - found.low) / 2)
    return ever / PATHS, float(np.mean(half))


@pytest.mark.parametrize("pools, canaries", [(steady, 1), (wandering, 8), (nearly_quiet, 8)])
def test_misses_the_truth_ever_on_at_most_5_paths_in_100(pools: Callable[..., np.ndarray], canaries: int) -> None:
    share, half = missed(pools, canaries, Confidence.after)
    assert share <= binom.ppf(0.999, PATHS, 0.05) / PATHS
    assert half < 0.35


def test_a_guess_computed_from_the_round_itself_misses_far_more_often() -> None:
    """The wrong variant: the present mean as the guess makes the penalty vanish. Held-out canaries one at a time."""

    def peeking(state: Confidence, seen: Sequence[float]) -> Confidence:
        mean = float((np.mean(seen) - LOWEST) / (HIGHEST - LOWEST))
        return state.placed(seen, state.bet(len(seen)), mean)

    assert missed(steady, 1, peeking)[0] > 0.2


def test_bet_and_guess_come_from_the_past_alone() -> None:
    past = Confidence().after([0.9, 1.0, 1.1])
    bet, guess = past.bet(2), past.guess
    assert past.after([0.2, 0.3]) == past.placed([0.2, 0.3], bet, guess)
    assert past.after([1.2, 1.3]) == past.placed([1.2, 1.3], bet, guess)
    assert 0 < bet <= 0.75


def test_narrows_around_an_intact_adapter_and_follows_the_formula() -> None:
    state = Confidence()
    assert state.interval() is None
    assert state.after([]) is state
    widths = []
    for _ in range(100):
        state = state.after([1.0, 0.98, 1.02, 1.0])
        found = interval_of(state)
        widths.append(found.high - found.low)
    assert widths[-1] < 0.06 and widths == sorted(widths, reverse=True)
    assert found.mean == pytest.approx(1.0) and found.n == 400
    plain = (math.log(40) + state.penalty) / state.weight
    assert found.high == pytest.approx(found.mean + 2 * plain)


def test_values_outside_the_bounds_count_as_the_bounds() -> None:
    assert Confidence().after([7.0, -3.0]) == Confidence().after([1.5, -0.5])


def test_goes_through_json_to_the_last_bit() -> None:
    state = Confidence().after([0.123456789, 0.3]).after([1 / 3])
    assert Confidence.from_json(json.loads(json.dumps(state.to_json(), allow_nan=False))) == state


def test_only_held_out_canaries_of_a_measured_round_are_observations() -> None:
    assert len(held_out_retentions(make_round("router", held_out=5))) == 5
    assert held_out_retentions(make_round("router", "blocked")) == ()
    assert held_out_retentions(make_round("router", "nan")) == ()
    assert held_out_retentions(replace(make_round("router"), measurements=())) == ()
