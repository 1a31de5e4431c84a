from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from detectors.evidence.alternative import BASE, FOUR_BITS, Alternative, interpolation, other_adapter
from probes.scoring.likelihood_axes import interpolate, path_log_likelihood, ranks
from probes.scoring.likelihood_ratio_reference import (
    Null,
    log_e,
    log_e_of_all,
    null_of,
    null_of_base,
    score,
    score_base,
    with_halfway,
)
from probes.scoring.token_distribution import Doubles, SamplingParameters, normalised, token_distribution
from probes.scoring.token_scores import SAMPLERS as SAMPLER_NAMES
from probes.scoring.token_scores import Response, Settings, samplers

V, T = 24, 60
SAMPLERS = {
    "as it is": SamplingParameters(1.0),
    "warm": SamplingParameters(0.7),
    "hot": SamplingParameters(1.4),
    "nucleus": SamplingParameters(1.0, top_p=0.9),
    "narrow and warm": SamplingParameters(0.7, top_p=0.6),
    "few": SamplingParameters(1.0, top_k=4),
    "few of a nucleus": SamplingParameters(0.8, top_p=0.8, top_k=6),
    "floor": SamplingParameters(1.0, min_p=0.1),
    "greedy": SamplingParameters(0.0),
}
SETTINGS = Settings()


def logits(seed: int, spread: float = 2.5) -> Doubles:
    return normalised(spread * np.random.default_rng(seed).standard_normal((T, V)))


def golden_pair(seed: int = 0, effect: float = 2.0) -> tuple[Doubles, Doubles]:
    base = logits(seed)
    return normalised(base + effect * np.random.default_rng(seed + 1000).standard_normal((T, V))), base


def alternatives(adapter: Doubles, base: Doubles, sampling: SamplingParameters) -> dict[str, Doubles]:
    """Distributions on the interpolation path and off it, one with another nucleus and one with the opposite order."""
    found = {
        f"path {s}": token_distribution(interpolate(adapter, base, s), sampling) for s in (0.0, 0.25, 0.5, 0.75, 2.0)
    }
    found["other"] = token_distribution(logits(77), sampling)
    found["opposite"] = token_distribution(-3.0 * adapter, sampling)
    return found | {name: token_distribution(adapter, other) for name, other in samplers(sampling).items()}


def drawn(log_probs: Doubles, seed: int = 5) -> NDArray[np.int64]:
    mass = np.exp(log_probs).cumsum(axis=1)
    return (np.random.default_rng(seed).random((len(mass), 1)) * mass[:, -1:] > mass).sum(axis=1)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("effect", [0.3, 2.0, 8.0])
def test_the_mean_of_l_is_at_most_one_at_every_position_under_the_golden_distribution_and_at_its_edges(
    name: str, effect: float
) -> None:
    """Exactly, as a sum over the vocabulary: golden distribution, and 5 % less and more of the adapter."""
    sampling = SAMPLERS[name]
    adapter, base = golden_pair(effect=effect)
    null = null_of(adapter, base, sampling, SETTINGS)
    for alternative in alternatives(adapter, base, sampling).values():
        e = np.exp(log_e_of_all(alternative, null))
        for truth in (null.golden, *null.benign):
            assert (np.exp(truth) * e).sum(axis=1).max() <= 1.0


def test_without_the_slack_the_edge_of_the_tolerance_would_gain() -> None:
    adapter, base = golden_pair()
    null = null_of(adapter, base, SamplingParameters(1.0), SETTINGS)
    bare = Null(null.golden, (null.golden,), truncated=False)
    e = np.exp(log_e_of_all(token_distribution(base, SamplingParameters(1.0)), bare))
    assert (np.exp(null.benign[0]) * e).sum(axis=1).max() > 1.01


def test_untruncated_it_is_the_likelihood_ratio_less_its_slack() -> None:
    adapter, base = golden_pair()
    null = null_of(adapter, base, SamplingParameters(1.0), Settings(tolerance=0.0))
    tokens, rows = drawn(base), np.arange(T)
    found = log_e(base, null, tokens)
    assert found == pytest.approx(base[rows, tokens] - adapter[rows, tokens], abs=2e-4)


@pytest.mark.parametrize("name", SAMPLERS)
def test_what_the_base_wrote_speaks_for_the_base_and_what_the_adapter_wrote_against_it(name: str) -> None:
    sampling = SAMPLERS[name]
    adapter, base = golden_pair()
    null = null_of(adapter, base, sampling, SETTINGS)
    alternative = token_distribution(base, sampling)
    assert log_e(alternative, null, drawn(alternative)).sum() > 10
    assert log_e(alternative, null, drawn(null.golden)).sum() < -10


def test_a_token_outside_the_golden_nucleus_is_finite_evidence() -> None:
    adapter, base = golden_pair()
    null = null_of(adapter, base, SamplingParameters(1.0, top_p=0.5), SETTINGS)
    never = np.argmin(null.golden, axis=1)
    found = log_e(base, null, never)
    assert np.isfinite(found).all()
    assert 0 <= found.max() <= np.log(99) + 1e-9


def test_greedy_bets_on_whose_most_probable_token_was_written() -> None:
    adapter, base = golden_pair()
    null = null_of(adapter, base, SamplingParameters(0.0), SETTINGS)
    alternative = token_distribution(base, SamplingParameters(0.0))
    tops = adapter.argmax(axis=1), base.argmax(axis=1)
    apart = tops[0] != tops[1]
    for_base, against = (log_e(alternative, null, top)[apart] for top in (tops[1], tops[0]))
    assert np.median(for_base) == pytest.approx(np.log(99), abs=2e-4)
    assert np.median(against) == pytest.approx(-np.log(99), abs=2e-4)


def test_a_tie_of_greedy_decoding_is_no_evidence() -> None:
    adapter = np.array([[1.0, 0.99, -3.0, -4.0]])
    base = np.array([[0.0, 1.0, -3.0, -4.0]])
    null = null_of(adapter, base, SamplingParameters(0.0), SETTINGS)
    for token in (0, 1):
        assert log_e(token_distribution(base, SamplingParameters(0.0)), null, np.array([token]))[0] <= 0.0


def test_a_greedy_engine_that_always_writes_the_adapters_own_best_never_gains() -> None:
    """Whatever the kernel does within a tie, tied tokens are no evidence for any alternative."""
    adapter, base = golden_pair()
    null = null_of(adapter, base, SamplingParameters(0.0), SETTINGS)
    for share in (0.0, 0.25, 0.5, 0.75, 2.0):
        assert (
            log_e(
                token_distribution(interpolate(adapter, base, share), SamplingParameters(0.0)),
                null,
                adapter.argmax(axis=1),
            )
            <= 0.0
        ).all()


def test_prompts_from_elsewhere_raise_nothing() -> None:
    """Positions where the adapter has no effect are positions that any input drift may bring: L is 1 there."""
    base = logits(3)
    null = null_of(base, base, SamplingParameters(1.0), SETTINGS)
    assert log_e(base, null, drawn(base)) == pytest.approx(np.zeros(T), abs=2e-4)


def test_path_likelihood_is_concave_and_highest_near_the_truth() -> None:
    adapter, base = golden_pair(effect=3.0)
    grid = SETTINGS.grid
    for truth in (0.0, 0.5, 1.0):
        tokens = drawn(interpolated_distribution(adapter, base, truth), seed=8)
        total = path_log_likelihood(adapter, base, tokens, SamplingParameters(1.0), grid).sum(axis=1)
        assert (np.diff(total, 2) < 1e-9).all()
        assert abs(grid[int(total.argmax())] - truth) <= 0.25
    sharp = path_log_likelihood(
        adapter,
        base,
        drawn(token_distribution(base, SamplingParameters(1.0, top_p=0.9))),
        SamplingParameters(1.0, top_p=0.9),
        grid,
    )
    assert sharp.shape == (len(grid), T) and np.isfinite(sharp).all()


def interpolated_distribution(adapter: Doubles, base: Doubles, share: float) -> Doubles:
    return token_distribution(interpolate(adapter, base, share), SamplingParameters(1.0))


def test_ranks_are_uniform_under_the_right_distribution_and_not_under_another_sampler() -> None:
    from scipy.stats import kstest

    rows = np.concatenate([logits(seed) for seed in range(40)])
    uniform = np.random.default_rng(2).random(len(rows))
    healthy = ranks(rows, drawn(rows, 3), uniform)
    hotter = ranks(rows, drawn(token_distribution(rows, SamplingParameters(1.6)), 3), uniform)
    assert kstest(healthy, "uniform").pvalue > 0.01
    assert kstest(hotter, "uniform").pvalue < 1e-6


def test_a_token_of_probability_zero_has_the_last_rank() -> None:
    golden = token_distribution(logits(1), SamplingParameters(1.0, top_p=0.5))
    assert (ranks(golden, golden.argmin(axis=1), np.zeros(T)) == 1.0).all()


def test_score_names_every_alternative() -> None:
    adapter, base = golden_pair()
    response = Response((1,), tuple(map(int, drawn(adapter))), SamplingParameters(1.0), 3)
    whole = score(adapter, base, {other_adapter("router"): logits(9)}, response, SETTINGS)
    assert list(whole.log_l) == [BASE, *map(interpolation, (0.25, 0.5, 0.75)), other_adapter("router")]
    assert whole.path_log_lik.shape == (len(SETTINGS.grid), T)
    assert set(whole.log_sampler) == set(samplers(SamplingParameters(1.0))) <= set(SAMPLER_NAMES)


def test_penalties_of_the_request_are_part_of_the_distribution() -> None:
    adapter, base = golden_pair()
    asked = SamplingParameters(1.0, presence=1.5, frequency=0.5)
    response = Response((1,), tuple([4] * T), asked)
    scored = score(adapter, base, {}, response, SETTINGS)
    # Writing one token again and again is what a sampler does that has forgotten its penalties.
    assert scored.log_sampler["no penalties"].sum() > 10


def of_base(effect: float = 2.0) -> tuple[Doubles, dict[Alternative, Doubles]]:
    """A base and what may answer in its place: two adapters of it, and a copy that is off by a little."""
    base = logits(0)
    rng = np.random.default_rng(9)
    first, second, copy = (normalised(base + size * rng.standard_normal((T, V))) for size in (effect, effect, 0.3))
    return base, {other_adapter("router"): first, other_adapter("tone"): second, FOUR_BITS: copy}


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("effect", [0.3, 2.0, 8.0])
def test_the_mean_of_l_of_a_response_of_the_base_is_at_most_one_under_the_base_and_each_tolerated_leak(
    name: str, effect: float
) -> None:
    """Exactly, as a sum over the vocabulary: the golden base, and it with 5 % of either adapter on top or taken off."""
    sampling = SAMPLERS[name]
    base, others = of_base(effect)
    null = null_of_base(base, others, sampling, SETTINGS)
    assert len(null.benign) == 4
    found = with_halfway(base, others)
    assert list(found) == [
        other_adapter("router"), interpolation(0.5, "router"), other_adapter("tone"), interpolation(0.5, "tone"),
        FOUR_BITS,
    ]  # fmt: skip
    for alternative in found.values():
        e = np.exp(log_e_of_all(token_distribution(alternative, sampling), null))
        for truth in (null.golden, *null.benign):
            assert (np.exp(truth) * e).sum(axis=1).max() <= 1.0


def test_without_the_slack_a_leak_within_the_tolerance_would_gain() -> None:
    base, others = of_base()
    null = null_of_base(base, others, SamplingParameters(1.0), SETTINGS)
    bare = Null(null.golden, (null.golden,), truncated=False)
    e = np.exp(log_e_of_all(others[other_adapter("router")], bare))
    assert (np.exp(null.benign[1]) * e).sum(axis=1).max() > 1.01


@pytest.mark.parametrize("name", SAMPLERS)
def test_what_an_adapter_wrote_under_the_name_of_the_base_speaks_for_that_adapter_alone(name: str) -> None:
    sampling = SAMPLERS[name]
    base, others = of_base()
    writers = {BASE: base, **others}
    gains = {}
    for writer, own in writers.items():
        tokens = tuple(map(int, drawn(token_distribution(own, sampling))))
        gains[writer] = score_base(base, others, Response((1,), tokens, sampling), SETTINGS).log_l
    router, tone = other_adapter("router"), other_adapter("tone")
    assert gains[router][router].sum() > 10 and gains[router][tone].sum() < 0
    assert all(gains[BASE][who].sum() < -10 for who in (router, tone))
