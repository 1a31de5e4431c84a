from __future__ import annotations

import math

import numpy as np
import pytest

from detectors.errors import ShapeMismatch
from detectors.records import Scored, TrafficScore
from detectors.strength_from_text import most_likely, retention_from_text
from probes.axes import on_path, path_log_likelihood
from probes.likelihood import Settings
from probes.sampler import Sampling, law, normalised

GRID = Settings().grid


def told(truth: float, seed: int, sampling: Sampling, tokens: int = 60) -> TrafficScore:
    rng = np.random.default_rng(seed)
    base = normalised(2.0 * rng.standard_normal((tokens, 40)))
    adapter = normalised(base + 1.5 * rng.standard_normal((tokens, 40)))
    mass = np.exp(law(on_path(adapter, base, truth), sampling)).cumsum(axis=1)
    drawn = (rng.random((tokens, 1)) * mass[:, -1:] > mass).sum(axis=1)
    found = path_log_likelihood(adapter, base, drawn, sampling, GRID).sum(axis=1)
    return TrafficScore(
        "router", str(seed), "", 0.0, Scored.SAMPLED, tokens,
        path=np.array(GRID, np.float32), path_log_lik=found.astype(np.float32),
    )  # fmt: skip


@pytest.mark.parametrize("truth", [0.3, 0.5, 1.0])
@pytest.mark.parametrize("sampling", [Sampling(1.0), Sampling(0.7), Sampling(1.0, top_p=0.9)])
def test_strength_is_read_from_the_words(truth: float, sampling: Sampling) -> None:
    found = retention_from_text([told(truth, seed, sampling) for seed in range(12)])
    assert found is not None and found.n == 12
    assert found.mean == pytest.approx(truth, abs=0.12)
    assert found.low < found.mean < found.high


def test_the_interval_covers_what_it_says() -> None:
    """60 samples of 3 responses at half strength: the bound is three standard errors below 95 %."""
    hits = 0
    for case in range(60):
        found = retention_from_text([told(0.5, 1000 + 3 * case + i, Sampling(1.0), 20) for i in range(3)])
        assert found is not None
        hits += not (found.low > 0.5 or found.high < 0.5)
    assert hits / 60 >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / 60)


def test_a_bound_beyond_the_grid_is_not_made_up() -> None:
    grid = np.linspace(0, 1.5, 16)
    found = most_likely(grid, -40.0 * (grid - 0.05) ** 2, 3)
    assert math.isnan(found.low) and found.high < 0.5


def test_nothing_is_said_of_greedy_responses_and_of_two_grids() -> None:
    empty = TrafficScore("router", "1", "", 0.0, Scored.GREEDY, 5)
    assert retention_from_text([empty]) is None
    other = TrafficScore(
        "router", "2", "", 0.0, Scored.SAMPLED, 5, path=np.zeros(3, np.float32), path_log_lik=np.zeros(3, np.float32)
    )
    with pytest.raises(ShapeMismatch):
        retention_from_text([told(1.0, 1, Sampling(1.0)), other])
