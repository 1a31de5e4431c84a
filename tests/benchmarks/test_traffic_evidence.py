"""The traffic benchmark's own arithmetic, on responses whose numbers are known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.traffic import engine_faults, peers, prefixes, suspected, unexplained
from benchmarks.traffic.clipped import alarms, neutral_alarms, per_response, weak
from benchmarks.traffic.delays import LOG_A, OTHERS, chances, fastest, weights
from benchmarks.traffic.observed import Bet, Doubles, Observed
from benchmarks.traffic.served import LONGEST, Cell
from detectors.evidence.alternative import BASE, HALF_STRENGTH, Alternative, interpolation, without
from detectors.traffic_records import ScoringMode, TrafficScore
from probes.artefacts.grid_levels import NF4_LEVELS
from probes.artefacts.lora_files import LoraAdapter, LowRankUpdate
from probes.scoring.token_distribution import SamplingParameters
from probes.scoring.token_scores import TokenScores


def observed(log_l: dict[Alternative, float], responses: int = 6, tokens: int = 10) -> Observed:
    n = responses * tokens
    rng = np.random.default_rng(3)
    scores = TokenScores(
        {name: np.full(n, value) for name, value in log_l.items()}, {},
        np.zeros((2, n)), np.zeros((2, n)), np.zeros((2, n)), rng.random(n),
        np.zeros((2, n)), np.zeros((2, n)),
    )  # fmt: skip
    lengths = np.full(responses, tokens)
    return Observed(
        Cell("ticket-router", "base", SamplingParameters(1.0), responses),
        lengths,
        scores,
        {},
        {},
        rng.random((responses, 4)),
    )


def test_the_bet_that_alarms_first_pays_for_its_weight_and_for_the_responses_that_are_not_scored_against_it() -> None:
    """Nats a token, by hand: half strength grows 1 on three responses of four, the base .8 on all."""
    growth: dict[Bet, Doubles] = {HALF_STRENGTH: np.full(60, 1.0), BASE: np.full(60, 0.8)}
    prior: dict[Bet, float] = {HALF_STRENGTH: 0.2, BASE: 0.5}
    scored: dict[Bet, float] = {HALF_STRENGTH: 0.75, BASE: 1.0}
    best = fastest(replace(observed({BASE: 0.0}), growth=growth), prior, scored)
    assert best.bet == BASE
    assert [best.nats, best.error] == pytest.approx([0.8, 0.0])
    assert best.tokens == pytest.approx(LOG_A / 0.8)
    assert best.with_weight == pytest.approx((LOG_A + math.log(2.0)) / 0.8)


def test_the_error_of_a_growth_is_that_of_which_responses_were_written() -> None:
    """Six responses of ten tokens, half of them 1 nat a token and half 3: the mean 2, its error 1 / sqrt 6."""
    growth: dict[Bet, Doubles] = {BASE: np.repeat([1.0, 3.0, 1.0, 3.0, 1.0, 3.0], 10)}
    best = fastest(replace(observed({BASE: 0.0}), growth=growth), {BASE: 1.0}, {})
    assert [best.nats, best.error] == pytest.approx([2.0, 1.0 / math.sqrt(6.0)])


def test_two_of_the_copies_are_drawn_and_the_base_is_always_scored() -> None:
    shares = chances()
    drawn = {who: share for who, share in shares.items() if who not in (BASE, *map(interpolation, (0.25, 0.5, 0.75)))}
    assert shares[BASE] == shares[interpolation(0.5)] == 1.0
    assert sum(drawn.values()) == pytest.approx(2.0)
    # Half strength by the weights of the detector: .2 of .37 the first time, and by what the first one leaves then.
    first = weights()[HALF_STRENGTH] / 0.37
    others = OTHERS * (0.15 / OTHERS / 0.37) * 0.2 / (0.37 - 0.15 / OTHERS) + 0.02 / 0.37 * 0.2 / 0.35
    assert shares[HALF_STRENGTH] == pytest.approx(first + others, abs=0.015)


def test_a_response_counts_with_the_weighted_mean_of_its_alternatives() -> None:
    found = per_response(observed({BASE: 2.0, HALF_STRENGTH: -100.0}))
    assert found == pytest.approx(np.full(6, 20.0 + math.log(0.5 / 0.7)))


def test_by_default_half_strength_pages_by_the_responses_that_are_scored_against_it() -> None:
    """Three nats in each of four responses of five, the base and the path ruled out."""
    path = {interpolation(share): -30.0 for share in (0.25, 0.5, 0.75)}
    cell = observed({BASE: -30.0, **path, HALF_STRENGTH: 0.3})
    responses, late = (figure.value for figure in weak([replace(cell, cell=replace(cell.cell, writer="half"))]))
    assert LOG_A / 3.0 <= responses <= 20 and late == 0.0


def test_four_responses_at_the_cap_alarm_and_healthy_ones_never() -> None:
    good, bad = np.full(3, -20.0), np.full(3, 40.0)
    assert set(alarms(good, bad, 1.0, LOG_A, runs=5)) == {4}
    assert set(alarms(good, bad, 0.0, LOG_A, runs=5, most=50)) == {50}


def test_one_mislabelled_record_in_a_thousand_never_pages_also_among_neutral_ones() -> None:
    pages, highest = neutral_alarms(runs=50, most=1_000_000)
    # P(M >= A by response T) <= T / A: a level above 23 would be a chance of one in 200 over all runs.
    assert (pages, highest < 23.0) == (0, True)


def test_a_replica_of_ten_and_of_thirty_two_is_found_in_the_promised_responses() -> None:
    good, bad = np.full(1, -49.0), np.full(1, 10.0 + math.log(0.5))
    tenth, rare = (alarms(good, bad, share, LOG_A, runs=200) for share in (0.1, 1 / 32))
    assert tenth.mean() <= 70 and np.quantile(tenth, 0.99) <= 170
    assert rare.mean() <= 300


def test_a_fault_that_begins_late_alarms_by_the_responses_that_are_read_whole() -> None:
    """One in eight of them: at best a cap of 110 in one response of eight, and never where none is read so far."""
    part, first = prefixes.read(50, 512), np.full(9, 32)
    assert 16 <= prefixes.alarm(part, 1.5, 50, 10, healthy=300)[0] <= 100
    assert prefixes.alarm(first, 1.5, 50, 10, healthy=300)[0] == prefixes.MOST
    assert prefixes.alarm(first, 1.5, 50, 10) == (4.0, 4.0 * 82)


def test_ranks_of_a_fault_are_evidence_and_those_as_accepted_are_none() -> None:
    """Ranks of density 2 r, where flat ones are all that is benign: .19 nats a token, twenty tokens a response."""
    flat = np.full((20, 600), 1 / 20)
    well = observed({BASE: -1.0}, responses=30, tokens=20)
    tokens = replace(well.tokens, ranks_weaker=flat, ranks_stronger=flat)
    slope = np.diff((np.arange(21) / 20) ** 2)[:, None] + np.zeros((20, 600))
    late, share, alarms = (f.value for f in unexplained.figures([replace(well, tokens=tokens, ranks_written=slope)]))
    assert LOG_A / (0.19 * 20) <= late <= 40
    assert share == alarms == 0.0


def test_peers_see_what_is_plainly_there() -> None:
    """Ranks all at the end, embeddings moved, other tokens: every statistic is larger than on a healthy half."""
    rng = np.random.default_rng(0)

    def pool(moved: float) -> peers.Pool:
        completions = np.column_stack([np.arange(48) % 8, rng.integers(0, 4, (48, LONGEST)) + 9 * (moved > 0)])
        ranks = [rng.random(9) * (1 - 0.8 * moved) for _ in range(48)]
        return peers.Pool(
            np.full((1, 48), 5.0 * moved), np.zeros(1), completions, ranks, rng.standard_normal((48, 6)) + 5 * moved
        )

    healthy, broken, some = pool(0.0), pool(1.0), np.arange(24)
    tests = peers._tests()
    assert "ranks, Cramer-von Mises" in tests
    for name, statistic in tests.items():
        assert statistic(broken, some, healthy, some) > statistic(healthy, some, healthy, some + 24), name
    assert peers._ours(broken) == 1.0


def lora() -> LoraAdapter:
    """Six rows of every matrix, which tell whose slice a rank has. (out, r), (r, in) of either kind of module."""
    b, a = torch.arange(6.0).repeat(2, 1).T, torch.arange(6.0).repeat(2, 1)
    parts = {"layers.0.q_proj": LowRankUpdate(a, b, 1.0), "layers.0.o_proj": LowRankUpdate(a, b, 1.0)}
    return LoraAdapter("a", {}, 2, 2.0, parts, {})


@pytest.mark.parametrize(
    ("writer", "wanted"),
    [
        ("the slice of one rank lost", [0, 1, 0, 0, 4, 5]),
        ("the slices of two ranks exchanged", [0, 1, 4, 5, 2, 3]),
        ("the first slice on every rank", [0, 1, 0, 1, 0, 1]),
    ],
)
def test_a_rank_has_a_slice_of_the_output_or_of_the_input_of_the_modules_that_sum_over_ranks(
    writer: str, wanted: list[int]
) -> None:
    before, after = lora(), engine_faults.changed(lora(), writer)
    assert after.low_rank["layers.0.q_proj"].b[:, 1].tolist() == wanted
    assert after.low_rank["layers.0.o_proj"].a[1].tolist() == wanted
    assert torch.equal(after.low_rank["layers.0.q_proj"].a, before.low_rank["layers.0.q_proj"].a)
    assert torch.equal(after.low_rank["layers.0.o_proj"].b, before.low_rank["layers.0.o_proj"].b)


def test_what_an_engine_rounds_lies_on_the_levels_of_its_format_and_the_largest_weight_stays() -> None:
    weight = torch.randn(8, 128, generator=torch.Generator().manual_seed(1))
    blocks = engine_faults.nf4(weight).reshape(-1, 64)
    levels = (blocks / blocks.abs().amax(dim=1, keepdim=True)).unique()
    assert float((levels - torch.tensor(NF4_LEVELS)[:, None]).abs().min(dim=0).values.max()) < 1e-6
    coarse = engine_faults.fp8(weight)
    assert float(coarse.abs().max()) == pytest.approx(float(weight.abs().max()))
    # Three bits of mantissa: half a step of an eighth.
    normal = weight.abs() > weight.abs().max() * 2.0**-12
    assert float(((coarse - weight).abs() / weight.abs())[normal].max()) <= 1 / 16


def test_a_request_has_the_alternatives_that_it_draws_and_those_that_are_suspected() -> None:
    everything = {BASE: 1.0, interpolation(0.5): 2.0, HALF_STRENGTH: 3.0, without("mlp"): 4.0}
    values = np.array(list(everything.values()), np.float32)
    whole = TrafficScore("ticket-router", "kept", "", 0.0, ScoringMode.SAMPLED, 9, tuple(everything), values)
    job = suspected._job("r 1")
    assert suspected._of_request(whole, job, ()).log_l.tolist() == [1.0, 2.0]
    drawn = suspected._of_request(whole, job, {without("mlp"), HALF_STRENGTH})
    assert (drawn.request_id, drawn.log_l.tolist()) == ("r 1", [1.0, 2.0, 3.0, 4.0])
