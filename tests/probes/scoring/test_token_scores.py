from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detectors.evidence.alternative import BASE, other_adapter
from probes.scoring.scoring_job import ScoringJob
from probes.scoring.token_distribution import SamplingParameters
from probes.scoring.token_scores import SAMPLERS, Response, Settings, TokenScores, samplers, seed_of, uniforms


def test_ranks_of_a_request_are_the_same_at_every_replay() -> None:
    response = Response((1,), (1, 2, 3), SamplingParameters(1.0), seed_of("req-1"))
    assert np.array_equal(uniforms(response), uniforms(response))
    assert not np.array_equal(uniforms(response), uniforms(replace(response, seed=seed_of("req-2"))))


def test_requests_that_share_an_id_have_ranks_of_their_own() -> None:
    """Some clients use an id again: equal numbers at equal positions would be a pattern in every histogram of ranks."""
    names = ("router", "1", "pod-0")
    first, second = (ScoringJob(*names, at, (1,), (1, 2, 3), SamplingParameters(1.0)) for at in (10.0, 12.5))
    assert not np.array_equal(uniforms(first.response), uniforms(second.response))
    assert np.array_equal(uniforms(first.response), uniforms(replace(first, output=(3, 2, 1)).response))


@pytest.mark.parametrize(
    ("requested", "names"),
    [
        (SamplingParameters(0.0), {"temperature 1", "temperature 0.3"}),
        (
            SamplingParameters(0.7, top_p=0.9),
            {"temperature 1", "temperature 0", "temperature x0.8", "temperature x1.2", "top_p 1"},
        ),
        (SamplingParameters(0.3, presence=1.0), set(SAMPLERS) - {"temperature 0.3", "top_p 1"}),
    ],
)
def test_other_samplers_differ_from_the_request_in_one_number(requested: SamplingParameters, names: set[str]) -> None:
    others = samplers(requested)
    assert set(others) == names <= set(SAMPLERS)
    assert requested not in others.values()
    if "temperature x0.8" in others:
        assert others["temperature x0.8"] == replace(requested, temperature=0.8 * requested.temperature)


def test_a_part_of_the_positions_is_a_part_of_every_number() -> None:
    rng = np.random.default_rng(0)
    rows, line = rng.random((4, 6)), rng.random(6)
    whole = TokenScores(
        {BASE: line, other_adapter("x"): -line}, {"top_p 1": line}, rows, rows[:3], rows[:2], line, rows, rows
    )
    part = whole.part(slice(2, 5))
    assert np.array_equal(part.log_l[BASE], line[2:5]) and np.array_equal(part.log_l[other_adapter("x")], -line[2:5])
    assert np.array_equal(part.log_sampler["top_p 1"], line[2:5]) and np.array_equal(part.ranks, line[2:5])
    assert np.array_equal(part.path_log_lik, rows[:, 2:5])
    assert (part.temperature_log_lik.shape, part.top_p_log_lik.shape) == ((3, 3), (2, 3))
    assert np.array_equal(part.ranks_weaker, rows[:, 2:5]) and np.array_equal(part.ranks_stronger, rows[:, 2:5])


def test_the_edges_of_the_tolerance_lie_on_both_sides() -> None:
    assert Settings(tolerance=0.1).edges == pytest.approx((0.9, 1.1))
