"""Evidence that a fault is over: is the bet fair at the edge of its null, is the guarantee kept, and how fast is it?"""

from __future__ import annotations

import json
from math import comb

import numpy as np
import pytest
from scipy.stats import binom

from detectors.evidence.e_detector import count_factors
from detectors.verdicts.recovery import BETS, ENOUGH, RARE, DrawCounts, Recovery
from probes.canaries.schedule import LEAST_DRAWS

DRAWN = 16


def since(share: float, tolerated: float = 0.05) -> Recovery:
    return Recovery.since(DrawCounts(100, round(100 * share), tolerated))


def rounds_until_shown(recovery: Recovery, beyond: int = 0, drawn: int = DRAWN) -> int:
    for number in range(1, 200):
        recovery = recovery.after(DrawCounts(drawn, beyond, 0.05))
        if recovery.shown:
            return number
    return 200


@pytest.mark.parametrize(
    ("share", "tolerated", "still_beyond"),
    [
        (0.0, 0.05, 0.10),
        (0.15, 0.05, 0.10),
        (0.30, 0.05, 0.15),
        (1.00, 0.05, 0.50),
        (0.30, 0.0975, 0.195),  # a base of three members
        (1.00, 0.64, 0.82),  # a base of forty
        (0.05, 0.01, 0.10),
    ],
)
def test_the_share_of_the_null_is_half_of_the_alarms_and_clearly_more_than_tolerated(
    share: float, tolerated: float, still_beyond: float
) -> None:
    assert since(share, tolerated).still_beyond == pytest.approx(still_beyond)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("more", [0.0, 0.1, 0.4])
def test_the_bet_is_fair_at_the_edge_of_the_null_and_loses_within_it(share: float, more: float) -> None:
    """The exact mean of each bet's factor over the numbers of draws beyond, and of M after its first round."""
    recovery = since(share)
    beyond = recovery.still_beyond + more
    chance = [comb(DRAWN, k) * beyond**k * (1 - beyond) ** (DRAWN - k) for k in range(DRAWN + 1)]
    within = DRAWN - np.arange(DRAWN + 1)
    factors = count_factors(within, np.full(DRAWN + 1, DRAWN), 1 - recovery.still_beyond, BETS)
    mean = np.array(chance) @ factors
    assert mean == pytest.approx(1.0, abs=1e-9) if more == 0.0 else bool((mean < 1.0).all())
    started = np.array([recovery.after(DrawCounts(DRAWN, k, 0.05)).m for k in range(DRAWN + 1)])
    assert np.array(chance) @ started == pytest.approx(mean)


@pytest.mark.parametrize("share", [0.0, 0.6])
def test_a_fault_that_is_still_there_is_rarely_taken_for_over(share: float) -> None:
    """P(shown in any of T rounds) <= T / 1,000 at the edge of the null, where it is largest: simulated, T = 100."""
    generator, rounds, streams = np.random.default_rng(5), 100, 1500
    taken = 0
    for _ in range(streams):
        recovery = since(share)
        for beyond in generator.binomial(DRAWN, recovery.still_beyond, size=rounds):
            recovery = recovery.after(DrawCounts(DRAWN, int(beyond), 0.05))
            if recovery.shown:
                taken += 1
                break
    bound = rounds / ENOUGH
    error = np.sqrt(bound * (1 - bound) / streams)
    assert 0 < taken / streams < bound - 4 * error


@pytest.mark.parametrize(
    ("share", "rounds"), [(1.0, 1), (0.5, 3), (0.25, 5), (0.2, 6), (0.0, 6)], ids=lambda value: str(value)
)
def test_after_a_repair_it_takes_one_to_six_rounds(share: float, rounds: int) -> None:
    assert rounds_until_shown(since(share)) == rounds


@pytest.mark.parametrize("drawn", [1, 3, 9, 16, 24, 64])
@pytest.mark.parametrize("tolerated", [0.02, 0.05, 0.2])
def test_the_chance_of_a_rare_round_with_nothing_wrong_is_at_most_one_in_a_hundred(
    drawn: int, tolerated: float
) -> None:
    """Exactly, at the edge of the null; and one draw fewer beyond would have been likelier than that."""
    rare = [k for k in range(drawn + 1) if DrawCounts(drawn, k, tolerated).is_rare]
    least = rare[0] if rare else drawn + 1
    assert rare == list(range(least, drawn + 1))
    assert binom.sf(least - 1, drawn, tolerated) <= RARE < binom.sf(least - 2, drawn, tolerated)


def test_with_the_fewest_draws_that_a_round_may_have_a_whole_loss_is_over_in_the_second() -> None:
    assert rounds_until_shown(since(1.0), drawn=LEAST_DRAWS) == 2
    assert rounds_until_shown(since(0.1), drawn=LEAST_DRAWS) == 10


def test_a_pool_at_the_tolerated_share_is_told_from_twice_as_much_in_time() -> None:
    """One draw of 16 beyond in each round, 6 % where 5 % are tolerated."""
    assert 20 < rounds_until_shown(since(0.0), beyond=1) < 200


def test_it_comes_back_from_json_to_the_last_bit() -> None:
    recovery = since(0.3).after(DrawCounts(DRAWN, 1, 0.05)).after(DrawCounts(DRAWN, 0, 0.05))
    assert Recovery.from_json(json.loads(json.dumps(recovery.to_json(), allow_nan=False))) == recovery
