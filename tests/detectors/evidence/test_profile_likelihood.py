from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from detectors.evidence.profile_likelihood import AxisLikelihood, Doubles, information_ratio, most_likely
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


@pytest.mark.parametrize("keep", [1.0, 0.5, 0.97, 0.5 ** (1 / 200)])
def test_one_sum_of_decaying_weights_says_the_other(keep: float) -> None:
    for responses in (1, 2, 30, 1500):
        weights = keep ** np.arange(responses)
        wanted = weights.sum() / (weights**2).sum()
        assert information_ratio(float(weights.sum()), keep) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("responses", [8, 150])
def test_the_interval_covers_with_95_percent_where_older_responses_weigh_less(responses: int) -> None:
    """2,000 streams of responses of unequal information, a half-life of 20 responses: within four standard errors of
    95 %, both of short streams and of those that have forgotten their beginning."""
    grid, truth, keep, streams = np.array(GRID), 0.7, 0.5 ** (1 / 20), 2000
    rng = np.random.default_rng(6)
    information = rng.exponential(40.0, (responses, streams))
    centres = truth + rng.standard_normal((responses, streams)) / np.sqrt(information)
    log_lik, n = np.zeros((len(grid), streams)), 0.0
    for row, centre in zip(information, centres, strict=True):
        log_lik, n = keep * log_lik - 0.5 * row * (grid[:, None] - centre) ** 2, keep * n + 1.0
    found = [most_likely(grid, column, n, keep) for column in log_lik.T]
    hits = sum(interval.low <= truth <= interval.high for interval in found)
    assert abs(hits / streams - 0.95) < 4 * math.sqrt(0.95 * 0.05 / streams)


def test_a_bound_beyond_the_grid_is_not_made_up() -> None:
    grid = np.linspace(0, 1.5, 16)
    found = most_likely(grid, -40.0 * (grid - 0.05) ** 2, 3)
    assert math.isnan(found.low) and found.high < 0.5


def test_an_axis_forgets_by_response_and_starts_again_on_another_grid() -> None:
    grid, other = (np.array(values, np.float32) for values in ((0.0, 1.0), (0.0, 2.0)))
    axis = AxisLikelihood()
    for log_lik in ((-1.0, -2.0), (-3.0, -1.0)):
        axis = axis.after(grid, np.array(log_lik, np.float32), keep=0.5)
    assert axis.log_lik.tolist() == [-3.5, -2.0]
    assert axis.n == 1.5
    assert axis.after(grid, np.array([math.nan, 0.0], np.float32), 0.5) is axis
    assert axis.after(grid, np.zeros(0, np.float32), 0.5) is axis
    again = axis.after(other, np.array([-1.0, -1.0], np.float32), 0.5)
    assert (again.grid, again.log_lik.tolist(), again.n) == ((0.0, 2.0), [-1.0, -1.0], 1.0)
    restored = AxisLikelihood.from_json(axis.to_json())
    assert (restored.grid, restored.log_lik.tolist(), restored.n) == (axis.grid, axis.log_lik.tolist(), axis.n)
