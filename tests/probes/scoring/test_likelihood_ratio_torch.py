from __future__ import annotations

import numpy as np
import pytest
import torch

from detectors.evidence.alternative import BASE, other_adapter
from probes.scoring.likelihood_axes import rank_bins
from probes.scoring.likelihood_ratio_reference import score, score_base
from probes.scoring.likelihood_ratio_torch import (
    Positions,
    growth_torch,
    log_e_torch,
    mean_e_torch,
    nucleus_torch,
    null_of_torch,
    rank_bins_torch,
    score_base_torch,
    score_torch,
    token_distribution_torch,
)
from probes.scoring.token_distribution import (
    Doubles,
    SamplingParameters,
    normalised,
    nucleus,
    penalised,
    token_distribution,
)
from probes.scoring.token_scores import Response, Settings, TokenScores, uniforms
from tests.probes.scoring.test_likelihood_ratio_reference import SAMPLERS, drawn, golden_pair, logits, of_base

SETTINGS = Settings()


def both(response: Response, adapter: Doubles, base: Doubles, other: Doubles) -> tuple[TokenScores, TokenScores]:
    ready = [penalised(side, response.prompt, response.tokens, response.sampling) for side in (adapter, base, other)]
    tensors = [torch.from_numpy(side) for side in ready]
    plain = torch.from_numpy(adapter) if response.sampling.penalised else None
    positions = Positions(torch.tensor(response.tokens), torch.from_numpy(uniforms(response)), response.sampling, plain)
    fast = score_torch(tensors[0], tensors[1], {other_adapter("x"): tensors[2]}, positions, SETTINGS)
    return score(adapter, base, {other_adapter("x"): other}, response, SETTINGS), fast


@pytest.mark.parametrize("name", [*SAMPLERS, "penalties"])
@pytest.mark.parametrize("writer", [0, 1])
def test_what_runs_equals_the_reference(name: str, writer: int) -> None:
    sampling = SAMPLERS.get(name, SamplingParameters(0.9, top_p=0.95, presence=0.5, frequency=0.2, repetition=1.3))
    pair = golden_pair()
    tokens = tuple(map(int, drawn(pair[writer])))
    plain, fast = both(Response((1, 2), tokens, sampling, 7), *pair, logits(77))
    for field in ("log_l", "log_sampler"):
        assert list(getattr(fast, field)) == list(getattr(plain, field))
        for key, wanted in getattr(plain, field).items():
            assert getattr(fast, field)[key] == pytest.approx(wanted, abs=2e-4), (field, key)
    for field in (*("ranks", "ranks_weaker", "ranks_stronger"), "path_log_lik", "temperature_log_lik", "top_p_log_lik"):
        assert getattr(fast, field) == pytest.approx(getattr(plain, field), abs=1e-3, nan_ok=True), field


FROM = other_adapter("tone")


@pytest.mark.parametrize("name", [*SAMPLERS, "penalties"])
def test_what_runs_of_a_response_of_the_base_equals_the_reference(name: str) -> None:
    sampling = SAMPLERS.get(name, SamplingParameters(0.9, top_p=0.95, presence=0.5, frequency=0.2, repetition=1.3))
    base, others = of_base()
    response = Response((1, 2), tuple(map(int, drawn(others[other_adapter("tone")]))), sampling, 7)
    ready = [
        torch.from_numpy(penalised(side, response.prompt, response.tokens, sampling))
        for side in (base, *others.values())
    ]
    plain = torch.from_numpy(base) if sampling.penalised else None
    positions = Positions(torch.tensor(response.tokens), torch.from_numpy(uniforms(response)), sampling, plain)
    fast = score_base_torch(ready[0], dict(zip(others, ready[1:], strict=True)), positions, SETTINGS, FROM)
    slow = score_base(base, others, response, SETTINGS, path_from=FROM)
    assert list(fast.log_l) == list(slow.log_l)
    for who, wanted in slow.log_l.items():
        assert fast.log_l[who] == pytest.approx(wanted, abs=2e-4), who
    assert not fast.log_sampler and fast.path_log_lik == pytest.approx(slow.path_log_lik, abs=1e-3)
    assert len(fast.path_log_lik) == (0 if sampling.greedy else len(SETTINGS.grid))


@pytest.mark.parametrize(
    "sampling", [SamplingParameters(0.0), SamplingParameters(0.0, repetition=1.3), SamplingParameters(1.0)]
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_ties_of_a_model_in_half_precision_are_those_of_the_reference(
    dtype: torch.dtype, sampling: SamplingParameters
) -> None:
    """Of the top two logits, one unit in the last place apart at 20, either may be written: neither is evidence."""
    rng = np.random.default_rng(1)
    raw = [torch.from_numpy(20.0 + np.minimum(rng.standard_normal((8, 30)), 2.0) - 4.0).to(dtype) for _ in range(3)]
    unit = torch.finfo(dtype).eps * 16.0
    raw[0][:, 3], raw[0][:, 7] = 20.0, 20.0 - unit
    tokens = (3, 7, 3, 7, 7, 3, 7, 7)
    response = Response((1, 2), tokens, sampling, 7)
    wide = [side.double().numpy() for side in raw]
    ready = [torch.from_numpy(penalised(side, response.prompt, tokens, sampling)) for side in wide]
    plain = raw[0] if sampling.penalised else None
    positions = Positions(torch.tensor(tokens), torch.from_numpy(uniforms(response)), sampling, plain)
    sides = ready if sampling.penalised else raw
    fast = score_torch(sides[0], sides[1], {other_adapter("x"): sides[2]}, positions, SETTINGS)
    slow = score(wide[0], wide[1], {other_adapter("x"): wide[2]}, response, SETTINGS, torch.finfo(dtype).eps)
    for field in ("log_l", "log_sampler"):
        for key, wanted in getattr(slow, field).items():
            assert getattr(fast, field)[key] == pytest.approx(wanted, abs=2e-4), (field, key)
    if sampling.greedy and not sampling.penalised:
        assert all(values.max() <= 0.0 for values in (*slow.log_l.values(), *fast.log_l.values()))


@pytest.mark.parametrize(("spacing", "allowed"), [(2.0**-23, False), (2.0**-10, False), (2.0**-7, True)])
def test_a_copy_in_float32_of_files_in_half_precision_ties_as_the_engine_does(spacing: float, allowed: bool) -> None:
    """Two logits .1 apart at 20 are one number in bfloat16, so that the engine may write either."""
    adapter, base = torch.full((1, 9), 10.0), torch.full((1, 9), 10.0)
    adapter[0, 3], adapter[0, 7], base[0, 7] = 20.0, 19.9, 10.5
    positions = Positions(torch.tensor([7]), torch.tensor([0.5]), SamplingParameters(0.0), spacing=spacing)
    scores = score_torch(adapter, base, {}, positions, SETTINGS)
    assert scores.log_l[BASE].item() == pytest.approx(0.0 if allowed else 4.595, abs=1e-3)


def test_a_nucleus_wider_than_the_first_look_is_found_whole() -> None:
    flat = normalised(0.1 * np.random.default_rng(0).standard_normal((3, 5000)))
    sampling = SamplingParameters(1.0, top_p=0.9)
    assert np.array_equal(nucleus_torch(torch.from_numpy(flat), sampling).numpy(), nucleus(flat, sampling))
    assert token_distribution_torch(torch.from_numpy(flat), sampling).numpy() == pytest.approx(
        token_distribution(flat, sampling), abs=1e-5
    )


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_exact_mean_is_the_sum_over_every_token_and_at_most_one(name: str) -> None:
    sampling = SAMPLERS[name]
    adapter, base = (torch.from_numpy(side).float() for side in golden_pair())
    null, alternative = null_of_torch(adapter, base, sampling, SETTINGS), token_distribution_torch(base, sampling)
    (found,) = mean_e_torch(alternative, null, [null.golden.exp()])
    each = [log_e_torch(alternative, null, torch.full((len(base),), token)).exp() for token in range(base.shape[1])]
    wanted = (null.golden.double().exp() * torch.stack(each, dim=1)).sum(-1)
    assert found.numpy() == pytest.approx(wanted.numpy(), rel=1e-5)
    assert found.max() <= 1.0


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_exact_growth_is_the_mean_of_ln_l_over_every_token(name: str) -> None:
    sampling = SAMPLERS[name]
    adapter, base = (torch.from_numpy(side).float() for side in golden_pair())
    null, alternative = null_of_torch(adapter, base, sampling, SETTINGS), token_distribution_torch(base, sampling)
    found, truth = growth_torch(alternative, null, alternative.exp()), alternative.double().exp()
    each = [log_e_torch(alternative, null, torch.full((len(base),), token)) for token in range(base.shape[1])]
    wanted = torch.where(truth > 0, truth * torch.stack(each, dim=1), 0.0).sum(-1)
    assert found.numpy() == pytest.approx(wanted.numpy(), abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["nucleus", "few of a nucleus", "top-k beyond the first look", "whole"])
def test_of_equal_logits_the_same_ones_are_cut_off_as_in_the_reference(dtype: torch.dtype, name: str) -> None:
    """In half precision many logits at the end of a nucleus are equal: those of the lowest ids stay."""
    sampling = {
        "nucleus": SamplingParameters(1.0, top_p=0.9),
        "few of a nucleus": SamplingParameters(0.8, top_p=0.8, top_k=40),
        "top-k beyond the first look": SamplingParameters(1.0, top_k=1500),
        "whole": SamplingParameters(1.0, top_p=0.999, min_p=1e-5),
    }[name]
    raw = torch.randn(6, 4000, generator=torch.Generator().manual_seed(3)).mul(2).to(dtype).float()
    cold = raw.log_softmax(-1)
    assert (nucleus_torch(cold, sampling).numpy() == nucleus(cold.double().numpy(), sampling)).all()


@pytest.mark.parametrize("sampling", [SamplingParameters(1.0), SamplingParameters(1.0, top_p=0.9)])
def test_ranks_of_a_flat_distribution_in_half_precision_are_binned_as_in_the_reference(
    sampling: SamplingParameters,
) -> None:
    """More tokens than are looked at first carry the ranks, and many of them are equally probable."""
    raw = torch.randn(4, 5000, generator=torch.Generator().manual_seed(5)).mul(0.5).to(torch.bfloat16).float()
    raw[1] *= 12.0  # of which the most probable ones are enough
    golden, edge = (token_distribution_torch(side, sampling) for side in (raw, raw + 0.3 * raw.roll(1, -1)))
    (found,) = rank_bins_torch(golden, [edge], 20)
    wanted = rank_bins(golden.double().numpy(), edge.double().numpy(), 20)
    assert found.T.numpy() == pytest.approx(wanted, abs=1e-5)
