from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from detectors.errors import Refused
from detectors.kinds.rank_histogram import Config, Detector, RankCounts, State, density, log_factors
from detectors.traffic_records import ScoringMode, TrafficRound, TrafficScore
from probes.scoring.likelihood_axes import interpolate, rank_bins, ranks
from probes.scoring.likelihood_ratio_reference import null_of
from probes.scoring.token_distribution import SamplingParameters, normalised, token_distribution
from probes.scoring.token_scores import Settings

Doubles = NDArray[np.float64]
BINS = 20
SAMPLERS = (SamplingParameters(1.0), SamplingParameters(0.7), SamplingParameters(1.0, top_p=0.9))
STAKES = np.array(Config().stakes)


def logits(seed: int, positions: int = 40, vocabulary: int = 30) -> tuple[Doubles, Doubles]:
    """(T, V) of an adapter and of its base."""
    rng = np.random.default_rng(seed)
    base = normalised(2.0 * rng.standard_normal((positions, vocabulary)))
    return normalised(base + 1.5 * rng.standard_normal((positions, vocabulary))), base


def surpluses(seed: int) -> Doubles:
    """(6, B) densities less 1 as histograms of some and of many tokens give them."""
    rng = np.random.default_rng(seed)
    counts = np.stack([rng.gamma(0.3, 400.0, BINS) for _ in range(5)] + [np.eye(BINS)[0] * 5000.0])
    return density(counts, prior=200.0, flat=0.05) - 1.0


@pytest.mark.parametrize("sampling", SAMPLERS)
@pytest.mark.parametrize("seed", range(3))
def test_a_token_has_mean_at_most_one_as_accepted_and_at_both_edges(sampling: SamplingParameters, seed: int) -> None:
    """Exact sums over the vocabulary and the rank's own chance, for bets of any kind that a past may have taught."""
    adapter, base = logits(seed)
    null = null_of(adapter, base, sampling, Settings())
    edges = np.stack([rank_bins(null.golden, edge, BINS) for edge in null.benign])
    for truth, surplus in itertools.product((null.golden, *null.benign), surpluses(seed)):
        drawn = rank_bins(null.golden, truth, BINS)
        each = [
            log_factors(surplus[None, :], STAKES, np.eye(BINS)[k], edges[:, t]) for t in range(40) for k in range(BINS)
        ]
        factors = np.exp(np.array(each)[:, 0]).reshape(40, BINS, len(STAKES))
        means = (drawn[:, :, None] * factors).sum(axis=1)
        assert means.max() <= 1.0 + 1e-12


@pytest.mark.parametrize("sampling", SAMPLERS)
def test_a_response_has_mean_at_most_one_whatever_its_tokens_have_in_common(sampling: SamplingParameters) -> None:
    """All pairs of tokens of a response of two, the second distribution depending on the first token, exactly."""
    firsts, after = logits(1, 1, 5), [logits(10 + token, 1, 5) for token in range(5)]
    surplus = surpluses(2)
    for which in range(3):
        mean = np.zeros((len(surplus), len(STAKES)))
        null = null_of(*firsts, sampling, Settings())
        first = [rank_bins(null.golden, edge, BINS)[0] for edge in null.benign]
        for token, pair in enumerate(after):
            later = null_of(*pair, sampling, Settings())
            second = [rank_bins(later.golden, edge, BINS)[0] for edge in later.benign]
            drawn = rank_bins(later.golden, (later.golden, *later.benign)[which], BINS)[0]
            bins = _bins_of(null.golden[0], (null.golden, *null.benign)[which][0], token)
            for k, j in itertools.product(range(BINS), range(BINS)):
                counts = np.eye(BINS)[k] + np.eye(BINS)[j]
                chance = bins[k] * drawn[j]
                mean += chance * np.exp(log_factors(surplus, STAKES, counts, np.stack(first) + np.stack(second)))
        assert mean.max() <= 1.0 + 1e-12


def _bins_of(golden: Doubles, truth: Doubles, token: int) -> Doubles:
    """(B,) chance that this token is drawn and its rank lies in each bin."""
    alone = np.where(np.arange(len(golden)) == token, truth, -np.inf)
    share = np.exp(golden)
    below = share[np.argsort(-golden, kind="stable")].cumsum()
    place = int(np.flatnonzero(np.argsort(-golden, kind="stable") == token)[0])
    low, high = (below[place] - share[token], below[place]) if share[token] else (1.0 - 1e-12, 1.0)
    ends = np.arange(BINS + 1) / BINS
    overlap = np.clip(np.minimum(high, ends[1:]) - np.maximum(low, ends[:-1]), 0.0, None) / (high - low)
    result: Doubles = np.exp(alone[token]) * overlap
    return result


def test_bins_are_where_the_ranks_fall() -> None:
    """20,000 draws a position at an edge of the tolerance, within five standard errors."""
    adapter, base = logits(4, positions=3)
    golden = token_distribution(adapter, SamplingParameters(1.0))
    edge = token_distribution(interpolate(adapter, base, 0.5), SamplingParameters(1.0))
    wanted, rng, n = rank_bins(golden, edge, BINS), np.random.default_rng(0), 20_000
    for t in range(3):
        tokens = rng.choice(30, size=n, p=np.exp(edge[t]) / np.exp(edge[t]).sum())
        fell = ranks(np.repeat(golden[t : t + 1], n, axis=0), tokens, rng.random(n))
        shares = np.histogram(fell, bins=BINS, range=(0.0, 1.0))[0] / n
        assert (np.abs(shares - wanted[t]) <= 5 * np.sqrt(wanted[t] * (1 - wanted[t]) / n) + 1e-9).all()
    assert wanted.sum(axis=1) == pytest.approx(np.ones(3))


def response(ranks_: Doubles, edges: Doubles | None = None, toll: float = 0.0, adapter: str = "router") -> TrafficScore:
    flat = np.full((2, BINS), len(ranks_) / BINS)
    weaker, stronger = (flat if edges is None else edges).astype(np.float32)
    return TrafficScore(
        adapter, "r", "", 0.0, ScoringMode.SAMPLED, len(ranks_), ranks=ranks_.astype(np.float32), ranks_weaker=weaker,
        ranks_stronger=stronger, rank_toll=toll,
    )  # fmt: skip


def round_of(*scores: TrafficScore, number: int = 0) -> TrafficRound:
    return TrafficRound("smol", number, 60.0 * number, ("router", "rewriter"), scores)


def levels(writer: float, edges: Doubles | None = None, rounds: int = 60) -> list[float]:
    """After rounds of four responses of 25 tokens whose ranks are u ** writer."""
    detector, rng, found = Detector(Config()), np.random.default_rng(3), []
    for number in range(rounds):
        scores = [response(rng.random(25) ** writer, edges) for _ in range(4)]
        found.append(detector.update(round_of(*scores, number=number))[0].log_e)
    return found


def test_ranks_that_move_are_evidence_and_ranks_that_may_move_are_none() -> None:
    """u ** .8 has the density 1.25 r ** .25. Where an edge of the tolerance writes like that, nothing is wrong.

    M has mean at most 60 after 60 rounds, and is above 20 times that with a chance of one in twenty at most.
    """
    ends = (np.arange(BINS + 1) / BINS) ** 1.25
    benign = np.stack([np.full(BINS, 25 / BINS), 25 * np.diff(ends)])
    assert levels(0.8)[-1] > 21.5
    assert max(levels(0.8, benign)) < math.log(1200)
    assert max(levels(1.0)) < math.log(1200)


def test_a_fault_after_a_long_healthy_past_is_learnt_by_the_shortest_histogram() -> None:
    detector, rng = Detector(Config()), np.random.default_rng(5)
    for number in range(300):
        detector.update(round_of(response(rng.random(25)), number=number))
    assert detector.unexplained("nobody") == 0.0
    for number in range(300, 420):
        level = detector.update(round_of(response(rng.random(25) ** 0.6), number=number))[0].log_e
    assert detector.unexplained("router") == level > 21.5
    onset = detector.onset("router")
    assert onset is not None and 280 <= onset.at / 60 <= 320
    for number in range(420, 560):
        detector.update(round_of(response(rng.random(25)), number=number))
    assert detector.unexplained("router") == 0.0, "M is still high, and nothing is wrong any more"


def test_a_toll_is_taken_off_every_factor() -> None:
    plain, tolled = (
        Detector(Config()).update(round_of(response(np.full(9, 0.5), toll=toll)))[0] for toll in (0.0, 0.3)
    )
    assert plain.log_e - tolled.log_e == pytest.approx(0.3)


def test_one_adapter_s_ranks_say_nothing_of_another_and_greedy_responses_nothing_at_all() -> None:
    detector = Detector(Config())
    greedy = TrafficScore("rewriter", "r", "", 0.0, ScoringMode.GREEDY, 12)
    bad = response(np.array([0.5, math.nan]), adapter="rewriter")
    own, other = detector.update(round_of(response(np.full(9, 0.01)), greedy, bad))
    assert (own.n, other.n, other.log_e) == (1, 0, 0.0)
    assert not own.pages
    detector.restart("router")
    assert detector.update(round_of())[0].n == 0


def test_state_survives_and_bins_of_another_number_start_again() -> None:
    detector = Detector(Config())
    detector.update(round_of(response(np.linspace(0, 1, 30))))
    again = State.from_json(json.loads(json.dumps(detector.state.to_json())))
    assert np.array_equal(again.histories["router"].counts, detector.state.histories["router"].counts)
    assert Detector(Config(), again).update(round_of(response(np.full(9, 0.1)))) == detector.update(
        round_of(response(np.full(9, 0.1)))
    )
    again.histories["router"] = RankCounts(np.ones((3, 7)), np.zeros(9))
    assert Detector(Config(), again).update(round_of(response(np.full(9, 0.1))))[0].n == 3


@pytest.mark.parametrize("settings", [{"stakes": (0.0,)}, {"recent": ()}, {"flat": 1.0}, {"prior": 0.0}])
def test_settings_that_make_no_bet_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        Config(**settings)
