from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from detectors.evidence.profile_likelihood import Doubles, most_likely
from detectors.records import Interval
from probes.scoring.likelihood_axes import interpolate, path_log_likelihood
from probes.scoring.token_distribution import SamplingParameters, normalised, token_distribution
from probes.scoring.token_scores import Settings

GRID = Settings().grid


def told(truth: float, seed: int, sampling: SamplingParameters, tokens: int = 60) -> Doubles:
    """(G,) ln likelihood along the interpolation path of one response that was written at ``truth``."""
    rng = np.random.default_rng(seed)
    base = normalised(2.0 * rng.standard_normal((tokens, 40)))
    adapter = normalised(base + 1.5 * rng.standard_normal((tokens, 40)))
    mass = np.exp(token_distribution(interpolate(adapter, base, truth), sampling)).cumsum(axis=1)
    drawn = (rng.random((tokens, 1)) * mass[:, -1:] > mass).sum(axis=1)
    likelihood: Doubles = path_log_likelihood(adapter, base, drawn, sampling, GRID).sum(axis=1)
    return likelihood


def strength(responses: Sequence[Doubles]) -> Interval:
    return most_likely(np.array(GRID), np.sum(responses, axis=0), len(responses))


@pytest.mark.parametrize("truth", [0.3, 0.5, 1.0])
@pytest.mark.parametrize(
    "sampling", [SamplingParameters(1.0), SamplingParameters(0.7), SamplingParameters(1.0, top_p=0.9)]
)
def test_strength_is_estimated_from_text_alone(truth: float, sampling: SamplingParameters) -> None:
    found = strength([told(truth, seed, sampling) for seed in range(12)])
    assert found.n == 12
    assert found.mean == pytest.approx(truth, abs=0.12)
    assert found.low < found.mean < found.high


def test_the_interval_covers_with_95_percent() -> None:
    """60 samples of 3 responses at half strength: the bound is three standard errors below 95 %."""
    hits = 0
    for case in range(60):
        found = strength([told(0.5, 1000 + 3 * case + i, SamplingParameters(1.0), 20) for i in range(3)])
        hits += not (found.low > 0.5 or found.high < 0.5)
    assert hits / 60 >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / 60)


def test_a_bound_beyond_the_grid_is_not_made_up() -> None:
    grid = np.linspace(0, 1.5, 16)
    found = most_likely(grid, -40.0 * (grid - 0.05) ** 2, 3)
    assert math.isnan(found.low) and found.high < 0.5
