"""Likely tokens and one bucket for the rest: an exactly fair bet, which loses what the rest would have said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from detectors.evidence.alternative import BASE, interpolation, other_adapter
from probes.scoring.likelihood_ratio_torch import Positions, score_torch, token_distribution_torch
from probes.scoring.rest_bucket import is_kept_apart, most_probable, score_kept
from probes.scoring.token_distribution import Doubles, SamplingParameters
from probes.scoring.token_scores import Settings, TokenScores

VOCABULARY, EACH = 331, 16
SETTINGS = Settings(kept_apart=EACH)
OTHER = other_adapter("x")
WARM = SamplingParameters(0.7)


def sides(sharpness: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(1, V) logits of adapter, base and another adapter: the larger ``sharpness``, the less lies in the rest."""
    drawn = torch.randn(3, 1, VOCABULARY, generator=torch.Generator().manual_seed(seed))
    base = sharpness * drawn[0]
    return base + 0.7 * drawn[1], base, base + 0.7 * drawn[2]


def of_every_token(sharpness: float, sampling: SamplingParameters, settings: Settings = SETTINGS) -> TokenScores:
    """One position, scored once for each token that could be written there."""
    adapter, base, other = (side.expand(VOCABULARY, -1) for side in sides(sharpness))
    uniform = torch.full((VOCABULARY,), 0.5, dtype=torch.float64)
    positions = Positions(torch.arange(VOCABULARY), uniform, sampling)
    score = score_kept if settings.kept_apart else score_torch
    return score(adapter, base, {OTHER: other}, positions, settings)


def _ratios(scores: TokenScores) -> list[Doubles]:
    return [*scores.log_l.values(), *scores.log_sampler.values()]


def healthy(sharpness: float, sampling: SamplingParameters) -> list[Doubles]:
    """(V,) probabilities of the accepted adapter, and of it at both edges of the tolerance."""
    adapter, base, _ = (side.log_softmax(-1) for side in sides(sharpness))
    shares = (1.0, *SETTINGS.edges)
    logits = [torch.lerp(base, adapter, share) for share in shares]
    return [token_distribution_torch(each, sampling)[0].double().exp().numpy() for each in logits]


@pytest.mark.parametrize("sampling", [SamplingParameters(1.0), WARM, SamplingParameters(1.3)], ids=str)
@pytest.mark.parametrize("sharpness", [0.5, 2.0, 6.0])
def test_every_bet_is_fair_over_the_whole_vocabulary(sharpness: float, sampling: SamplingParameters) -> None:
    """Also where most of the probability lies in the rest."""
    scores = of_every_token(sharpness, sampling)
    assert {BASE, interpolation(0.5), OTHER} <= scores.log_l.keys() and "top_p 0.9" in scores.log_sampler
    for drawn_by in healthy(sharpness, sampling):
        for log_l in _ratios(scores):
            assert np.exp(log_l) @ drawn_by <= 1.0


def test_ranks_are_uniform_and_their_bins_are_what_is_expected_of_them() -> None:
    adapter, *edges = healthy(1.0, WARM)
    scores = of_every_token(1.0, WARM)
    assert scores.ranks @ adapter == pytest.approx(0.5, abs=1e-5)
    for bins, drawn_by in zip((scores.ranks_weaker, scores.ranks_stronger), edges, strict=True):
        middles = (np.arange(SETTINGS.rank_bins) + 0.5) / SETTINGS.rank_bins
        assert bins.sum(0) == pytest.approx(1.0, abs=1e-6)
        assert bins[:, 0] @ middles == pytest.approx(scores.ranks @ drawn_by, abs=0.01)


@pytest.mark.parametrize("sampling", [SamplingParameters(1.0), WARM], ids=str)
def test_where_little_lies_in_the_rest_it_is_what_the_whole_vocabulary_gives(sampling: SamplingParameters) -> None:
    kept, whole = (of_every_token(4.0, sampling, Settings(kept_apart=each)) for each in (40, 0))
    likely = np.flatnonzero(healthy(4.0, sampling)[0] > 1e-3)
    assert len(likely) > 3
    assert list(kept.log_l) == list(whole.log_l) and list(kept.log_sampler) == list(whole.log_sampler)
    for ours, theirs in zip(_ratios(kept), _ratios(whole), strict=True):
        assert ours[likely] == pytest.approx(theirs[likely], abs=5e-3)
    for axis in ("path_log_lik", "temperature_log_lik", "top_p_log_lik", "ranks_weaker", "ranks_stronger"):
        assert getattr(kept, axis)[:, likely] == pytest.approx(getattr(whole, axis)[:, likely], abs=5e-3), axis
    assert kept.ranks[likely] == pytest.approx(whole.ranks[likely], abs=1e-3)


def test_what_is_lost_is_growth_where_another_one_writes_tokens_of_the_rest() -> None:
    base = sides(2.0)[1].log_softmax(-1)[0].double().numpy()
    kept, whole = (
        of_every_token(2.0, SamplingParameters(1.0)),
        of_every_token(2.0, SamplingParameters(1.0), replace(SETTINGS, kept_apart=0)),
    )
    growth = [float(np.exp(base) @ scores.log_l[BASE]) for scores in (kept, whole)]
    assert 0.0 < growth[0] < growth[1] + 1e-6


@pytest.mark.parametrize(("width", "count"), [(331, 16), (331, 41), (331, 300), (8, 3), (4096, 512)])
def test_the_most_probable_tokens_are_those_of_a_whole_search(width: int, count: int) -> None:
    logits = torch.randn(5, width, generator=torch.Generator().manual_seed(width))
    wanted = logits.topk(count).indices.sort(-1).values
    assert torch.equal(most_probable(logits, count).sort(-1).values, wanted)


@pytest.mark.parametrize(
    ("sampling", "width", "is_wanted"),
    [
        (SamplingParameters(0.7), 49_152, True),
        (SamplingParameters(0.7), 4_000, False),
        (SamplingParameters(0.7, top_p=0.9), 49_152, False),
        (SamplingParameters(0.0), 49_152, False),
        (SamplingParameters(0.7, presence=0.1), 49_152, False),
    ],
)
def test_the_whole_vocabulary_is_used_for_a_small_one_and_where_tokens_are_cut_off(
    sampling: SamplingParameters, width: int, is_wanted: bool
) -> None:
    assert is_kept_apart(width, sampling, Settings()) is is_wanted
    assert not is_kept_apart(width, sampling, Settings(kept_apart=0))
