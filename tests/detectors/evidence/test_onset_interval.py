"""The interval of an onset: its guarantee by simulation, its two test supermartingales exactly, and its edges."""

from __future__ import annotations

import math

import numpy as np
import pytest

from detectors.evidence.e_detector import count_factors, nats, step
from detectors.evidence.onset_interval import (
    ALPHA,
    BETS_ON_FAULTY,
    BETS_ON_HEALTHY,
    KEPT_ROUNDS,
    OnsetInterval,
    ScoredRound,
    onset_candidates,
    onset_interval,
    with_round,
)

SHARE, LEAST_FAULT, DRAWS, EVERY_S = 0.05, 0.10, 16, 60.0
# ln A at which the simulated e-detector alarms: lower than a fleet's, so that alarms come sooner and rounds are fewer.
LOG_A, RUNS = 12.0, 400


def rounds_of(*beyond: int, draws: int = DRAWS) -> list[ScoredRound]:
    return [ScoredRound(number * EVERY_S, draws, ones, SHARE) for number, ones in enumerate(beyond)]


def rounds_to_the_alarms(healthy: float, broken: float, onset: int) -> list[list[ScoredRound]]:
    """Of 400 runs of the e-detector that alarm at or after the onset, the rounds that are kept at the alarm."""
    rng = np.random.default_rng([7, onset, round(100 * broken), round(100 * healthy)])
    beyond = rng.binomial(DRAWS, np.where(np.arange(onset + 500) < onset, healthy, broken), (RUNS, onset + 500))
    m, levels = np.zeros((RUNS, 8)), []
    for ones in beyond.T:
        step(m, count_factors(ones, DRAWS, SHARE))
        levels.append(nats(m))
    alarmed = np.array(levels).T >= LOG_A
    alarms = np.where(alarmed.any(axis=1), alarmed.argmax(axis=1), -1)
    return [
        rounds_of(*row[: alarm + 1])[-KEPT_ROUNDS:] for row, alarm in zip(beyond, alarms, strict=True) if alarm >= onset
    ]


@pytest.mark.parametrize("onset", [0, 30, 140])
@pytest.mark.parametrize("broken", [0.10, 0.30, 1.0])
@pytest.mark.parametrize("healthy", [0.0, 0.05])
def test_the_interval_has_the_round_in_which_the_fault_began(healthy: float, broken: float, onset: int) -> None:
    """P(alarm at or after the onset, which is not in the interval) is at most 5 %, with three standard errors.

    A share of 10 % is the least that counts as a fault and 5 % the most that is healthy: the edges of the null. Of an
    onset in round 140 not all rounds are kept.
    """
    kept = rounds_to_the_alarms(healthy, broken, onset)
    intervals = [onset_interval(rounds, LEAST_FAULT) for rounds in kept]
    missed = sum(interval is None or not _contains(interval, onset * EVERY_S) for interval in intervals)
    assert len(kept) >= 0.9 * RUNS
    assert missed / RUNS <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / RUNS)


def _contains(interval: OnsetInterval, at: float) -> bool:
    return (interval.after is None or interval.after < at) and at <= interval.by


def test_a_factor_has_mean_at_most_one_at_the_edge_of_its_null() -> None:
    """Exactly, over all counts: of the bets against "healthy" at the tolerated share, and below it; of those against
    "faulty" at the least share of a fault, and above it."""
    counts = np.arange(DRAWS + 1)
    on_faulty = count_factors(counts, DRAWS, SHARE, BETS_ON_FAULTY)
    on_healthy = count_factors(DRAWS - counts, DRAWS, 1.0 - LEAST_FAULT, BETS_ON_HEALTHY)
    for share in (0.0, 0.02, SHARE):
        assert (_chances(share) @ on_faulty <= 1.0 + 1e-9).all()
    for share in (LEAST_FAULT, 0.4, 1.0):
        assert (_chances(share) @ on_healthy <= 1.0 + 1e-9).all()


def _chances(share: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.array([math.comb(DRAWS, k) * share**k * (1 - share) ** (DRAWS - k) for k in range(DRAWS + 1)])


def test_the_candidates_are_those_of_the_formula() -> None:
    """Against the definition, written out with plain products, on rounds of unequal numbers of draws."""
    rng = np.random.default_rng(5)
    drawn = rng.integers(1, 20, 30)
    beyond = rng.binomial(drawn, np.where(np.arange(30) < 18, 0.02, 0.4))
    found = onset_candidates(beyond, drawn, SHARE, LEAST_FAULT)
    on_faulty = count_factors(beyond, drawn, SHARE, BETS_ON_FAULTY)
    on_healthy = count_factors(drawn - beyond, drawn, 1.0 - LEAST_FAULT, BETS_ON_HEALTHY)
    for t in range(31):
        before = sum(on_faulty[s:t].prod(axis=0).mean() / ((t - s) * (t - s + 1)) for s in range(t))
        since = max((on_healthy[t : r + 1].prod(axis=0).mean() for r in range(t, 30)), default=0.0)
        assert found[t] == (before < 2 / ALPHA and since < 2 / ALPHA)
    assert found[18] and not found.all() and found.any()


def test_a_lost_adapter_after_rounds_without_outliers_is_dated_to_three_rounds() -> None:
    interval = onset_interval(rounds_of(*[0] * 20, DRAWS), LEAST_FAULT)
    assert interval == OnsetInterval(17 * EVERY_S, 20 * EVERY_S)


def test_a_fault_from_before_the_first_kept_round_is_or_earlier() -> None:
    assert onset_interval(rounds_of(DRAWS, DRAWS), LEAST_FAULT) == OnsetInterval(None, 0.0)
    assert onset_interval(rounds_of(3), LEAST_FAULT) is None, "three draws beyond do not reject that all is well"


@pytest.mark.parametrize(
    "beyond",
    [(), (0,) * 20, (*(0,) * 9, DRAWS) * 3],
    ids=["nothing was kept", "these scores are healthy", "a fault that comes and goes"],
)
def test_no_interval_where_one_lasting_fault_does_not_explain_the_scores(beyond: tuple[int, ...]) -> None:
    """The fault that comes and goes: from each of its rounds on nine healthy ones follow, or it was there before."""
    assert onset_interval(rounds_of(*beyond, *(0,) * 9 if DRAWS in beyond else ()), LEAST_FAULT) is None


def test_so_many_draws_that_every_product_leaves_the_range_of_a_double() -> None:
    interval = onset_interval(rounds_of(*[0] * 5, *[900] * 5, draws=1000), LEAST_FAULT)
    assert interval == OnsetInterval(4 * EVERY_S, 5 * EVERY_S)


def test_as_many_rounds_as_stated_are_kept_and_all_of_one_tolerated_share() -> None:
    kept: tuple[ScoredRound, ...] = ()
    for scored in rounds_of(*[0] * (KEPT_ROUNDS + 5)):
        kept = with_round(kept, scored)
    assert len(kept) == KEPT_ROUNDS and kept[0].at == 5 * EVERY_S
    other = ScoredRound(9e9, DRAWS, 0, 0.1)
    assert with_round(kept, other) == (other,)
