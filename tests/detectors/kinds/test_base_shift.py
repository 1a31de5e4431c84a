from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from detectors.canaries.tolerance import Tolerances, base_scores, members_needed
from detectors.evidence.e_detector import grid
from detectors.kinds.base_shift import Config, Detector
from detectors.records import BaseRound, SubjectKind
from tests.detectors.synthetic import ADAPTERS, POOL, drawn, make_base_round, make_round, measurement


def levels(faults: dict[str, str], rounds: int, draws: int = 16) -> list[float]:
    detector = Detector(Config())
    return [detector.update(make_base_round(faults, number, draws))[0].log_e for number in range(rounds)]


def base_round(faults: Sequence[str], number: int = 0, draws: int = 16) -> BaseRound:
    """One round of as many adapters as there are faults, each with draws of its own from the router's canaries."""
    blank = make_round("router", number=number, draws=0, held_out=0)
    members = []
    for place, fault in enumerate(faults):
        times = np.bincount(np.random.default_rng([number, place]).integers(POOL, size=draws), minlength=POOL)
        rows = tuple(drawn(measurement("router", 2 * i, fault), int(k)) for i, k in enumerate(times) if k)
        members.append(replace(blank, adapter=f"adapter-{place}", measurements=rows))
    return BaseRound("smol", number, blank.at, tuple(members))


@pytest.mark.parametrize("fault", ["not_applied", "reparameterised", "scale:0.7", "swapped_and_lost"])
def test_all_adapters_together_page_the_base_in_the_first_round(fault: str) -> None:
    assert levels(dict.fromkeys(ADAPTERS, fault), 1)[0] >= 21.5


@pytest.mark.parametrize("members", [2, 3, 4, 10, 40, 100, 200])
def test_however_many_adapters_are_lost_one_round_is_enough(members: int) -> None:
    (found,) = Detector(Config()).update(base_round(["not_applied"] * members))
    assert found.log_e >= 21.5 and found.n == 16


def test_one_of_two_never_adds_up_to_a_page_though_the_other_has_an_outlier() -> None:
    """1,000 rounds at the very edge of the null; a page at 21.5 nats then has a chance of one in a million."""
    assert max(levels({"router": "not_applied", "rewriter": "edge"}, 1000)) < 21.5


@pytest.mark.parametrize("broken, others", [(1, 2), (2, 1), (2, 2), (3, 1)])
def test_of_three_or_four_all_are_needed(broken: int, others: int) -> None:
    detector = Detector(Config())
    assert detector.update(base_round(["not_applied"] * broken + ["healthy"] * others))[0].log_e < 0.0
    assert detector.update(base_round(["not_applied"] * (broken + others), 1))[0].log_e >= 21.5


@pytest.mark.parametrize("members", [2, 3, 4, 5, 10, 40, 100, 200])
def test_the_bet_is_fair_with_half_of_the_members_broken_outright(members: int) -> None:
    """The exact mean of the factor of a round, for each bet, and that of a draw as it is seen over many rounds."""
    others, share = members - members // 2, Tolerances().share
    enough = members_needed(share, members) - members // 2
    mean = float(binom.sf(enough - 1, others, share))
    assert ((1.0 + grid(share) * (mean - share)) ** 16 <= 1.0 + 1e-12).all()
    faults = ["not_applied"] * (members // 2) + ["edge"] * others
    rounds = 400 if members <= 10 else 40
    seen = np.concatenate([base_scores(base_round(faults, number), Tolerances()) for number in range(rounds)])
    assert abs(seen.mean() - mean) < 4 * math.sqrt(mean * (1.0 - mean) / len(seen))


@pytest.mark.parametrize("members", [2, 5, 10])
def test_the_expected_m_is_at_most_the_number_of_rounds(members: int) -> None:
    """With half of the members broken outright and the others at the edge; of two members it is the number of rounds.
    One draw a round and few rounds, because the right tail of M is too heavy otherwise for as many runs."""
    others, rounds, runs = members - members // 2, 4, 600
    faults, reached = ["not_applied"] * (members // 2) + ["edge"] * others, []
    for run in range(runs):
        detector = Detector(Config())
        for number in range(rounds):
            (found,) = detector.update(base_round(faults, run * rounds + number, draws=1))
        reached.append(math.exp(found.log_e))
    error = np.std(reached) / math.sqrt(runs)
    assert np.mean(reached) <= rounds + 4 * error
    if members == 2:
        assert np.mean(reached) >= rounds - 4 * error


@pytest.mark.parametrize(
    "members, least",
    [(2, 0.22), (3, 0.37), (4, 0.47), (5, 0.34), (10, 0.39), (20, 0.44), (40, 0.46), (100, 0.47), (200, 0.49)],
)
def test_the_least_fault_of_all_members_alike_that_shows_on_their_base(members: int, least: float) -> None:
    """To two digits, as docs/mathematics.md has it: the share of each one's draws beyond, from which on M grows."""
    needed, share = members_needed(0.05, members), [least - 0.006, least + 0.006]
    below, above = binom.sf(needed - 1, members, share)
    assert below < 0.05 < above


def test_a_round_with_a_blocked_member_is_scored_by_those_that_are_left() -> None:
    faults = {"router": "not_applied", "rewriter": "not_applied", "extractor": "healthy"}
    detector = Detector(Config())
    (all_three,) = detector.update(make_base_round(faults))
    (two,) = detector.update(make_base_round(faults | {"extractor": "blocked"}, 1))
    (three_again,) = detector.update(make_base_round(faults, 2))
    assert all_three.log_e < 0.0 and two.log_e >= 21.5 and three_again.log_e < two.log_e
    assert three_again.n == 48


def test_fewer_than_two_measured_members_are_no_evidence() -> None:
    detector = Detector(Config())
    (found,) = detector.update(make_base_round({"router": "not_applied", "rewriter": "blocked"}))
    assert (found.log_e, found.n, found.subject_kind) == (0.0, 0, SubjectKind.BASE)
    (before,) = detector.update(make_base_round(dict.fromkeys(ADAPTERS, "healthy"), 1))
    (after,) = detector.update(make_base_round({"router": "not_applied"}, 2))
    assert (after.log_e, after.n) == (before.log_e, before.n)
