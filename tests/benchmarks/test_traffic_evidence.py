"""The traffic benchmark's own arithmetic, on responses whose numbers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.traffic import peers
from benchmarks.traffic.clipped import alarms, neutral_alarms, per_response
from benchmarks.traffic.delays import LOG_A, delays
from benchmarks.traffic.observed import Observed
from benchmarks.traffic.served import LONGEST, Cell
from detectors.evidence.alternative import BASE, HALF_STRENGTH, Alternative, interpolation
from probes.scoring.token_distribution import SamplingParameters
from probes.scoring.token_scores import TokenScores


def observed(log_l: dict[Alternative, float], responses: int = 6, tokens: int = 10) -> Observed:
    n = responses * tokens
    rng = np.random.default_rng(3)
    scores = TokenScores(
        {name: np.full(n, value) for name, value in log_l.items()}, {},
        np.zeros((2, n)), np.zeros((2, n)), np.zeros((2, n)), rng.random(n),
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


def test_the_delay_is_counted_in_tokens_also_across_responses() -> None:
    seen = observed({BASE: 1.0, interpolation(0.5): -5.0})
    needed = delays(seen, {BASE: 0.5, interpolation(0.5): 0.25})
    assert set(needed) == {math.ceil(LOG_A + math.log(2.0))}


def test_a_response_counts_with_the_weighted_mean_of_its_alternatives() -> None:
    found = per_response(observed({BASE: 2.0, HALF_STRENGTH: -100.0}))
    assert found == pytest.approx(np.full(6, 20.0 + math.log(0.5 / 0.7)))


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
