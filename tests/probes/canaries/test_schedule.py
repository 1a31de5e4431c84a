from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare

from probes.canaries.schedule import due, mean_tokens, plan_round, sizes
from probes.errors import Refused
from tests.probes.goldens import golden

LENGTHS = tuple(12 + index % 29 for index in range(48))


def test_a_plan_never_exceeds_its_budget() -> None:
    for lengths in (LENGTHS, (12,) * 48, (40,) * 48):
        made = golden(lengths=lengths)
        cost = {canary.id: len(canary.forced) for canary in made.canaries}
        for budget in (400, 512, 700, 2000):
            seen = set()
            for number in range(40):
                drawn = plan_round(made, budget, seed=3, number=number)
                assert sum(cost[name] for name in (*drawn.draws, *drawn.held_out)) <= budget
                assert set(drawn.draws) <= {canary.id for canary in made.pool}
                assert set(drawn.held_out) <= {canary.id for canary in made.held_out}
                assert len(set(drawn.held_out)) == len(drawn.held_out) <= 16
                seen.add((sum(drawn.draws.values()), len(drawn.held_out)))
            assert len(seen) == 1, "the number of draws may not depend on which canaries were drawn"
            assert 9 <= seen.pop()[0] <= 32


def test_draws_and_held_out_canaries_are_uniform() -> None:
    made = golden(lengths=LENGTHS)
    draws: Counter[str] = Counter()
    held_out: Counter[str] = Counter()
    for number in range(2000):
        drawn = plan_round(made, 512, seed=1, number=number)
        draws.update(drawn.draws)
        held_out.update(drawn.held_out)
    for counts, half in ((draws, made.pool), (held_out, made.held_out)):
        assert chisquare([counts[canary.id] for canary in half]).pvalue > 0.001


def test_draws_are_with_replacement_and_the_number_depends_on_the_worst_case_only() -> None:
    made = golden(lengths=(20,) * 48)
    repeated = [max(plan_round(made, 512, 1, number).draws.values()) for number in range(20)]
    assert max(repeated) > 1
    assert sizes([20] * 24, [20] * 24, 512) == (15, 10)


def test_same_round_same_plan_and_other_rounds_others() -> None:
    made = golden(lengths=LENGTHS)
    assert plan_round(made, 512, 1, 5) == plan_round(made, 512, 1, 5)
    plans = [plan_round(made, 512, 1, number) for number in range(5)]
    assert len({tuple(one.draws) for one in plans}) == 5
    assert plan_round(made, 512, 2, 5) != plan_round(made, 512, 1, 5)
    assert plan_round(golden("another", lengths=LENGTHS), 512, 1, 5).draws != plan_round(made, 512, 1, 5).draws


def test_a_round_of_the_same_number_after_a_restart_is_another_one() -> None:
    made = golden(lengths=LENGTHS)
    starts = [plan_round(made, 512, 1, 0, salt) for salt in (1_700_000_000_000, 1_700_000_060_001, 1_700_000_060_002)]
    assert len({tuple(one.draws) for one in starts}) == len({one.held_out for one in starts}) == 3
    assert plan_round(made, 512, 1, 0, 1_700_000_000_000) == starts[0]


def test_the_mean_tokens_of_a_round_are_those_of_its_plans() -> None:
    made = golden(lengths=LENGTHS)
    scored = {canary.id: len(canary.forced) for canary in made.canaries}
    processed = {canary.id: 2 * (len(canary.prompt) + len(canary.forced) - 1) for canary in made.canaries}
    plans = [plan_round(made, 512, seed=4, number=number) for number in range(3000)]
    for tokens, expected in zip((scored, processed), mean_tokens(made.canaries, 512), strict=True):
        drawn = np.array([sum(tokens[name] for name in (*plan.draws, *plan.held_out)) for plan in plans])
        assert abs(drawn.mean() - expected) < 4 * drawn.std() / np.sqrt(len(drawn))


def test_short_canaries_give_more_draws_for_the_same_budget_up_to_the_most() -> None:
    whole, mixed, short = [24] * 24, [24] * 6 + [5] * 18, [5] * 24
    assert [sizes(lengths, lengths, 512)[0] for lengths in (whole, mixed, short)] == [12, 32, 32]
    assert [sizes(lengths, lengths, 512)[1] for lengths in (whole, mixed, short)] == [9, 16, 16]


def test_too_small_a_budget_is_refused_with_what_it_takes() -> None:
    with pytest.raises(Refused, match="at least 360"):
        plan_round(golden(lengths=(40,) * 48), 359, 0, 0)
    assert sizes([40] * 24, [40] * 24, 360) == (9, 0)


def test_few_canaries_are_all_held_out_at_most_once() -> None:
    drawn = plan_round(golden(lengths=(12,) * 6), 512, 0, 0)
    assert sum(drawn.draws.values()) == 32
    assert len(drawn.held_out) == 3


@pytest.mark.parametrize(("last", "expected"), [(None, True), (100.0, True), (100.5, False)])
def test_a_round_is_due_after_its_interval(last: float | None, expected: bool) -> None:
    assert due(160.0, last, 60.0) is expected


def test_a_plan_does_not_look_at_content() -> None:
    generator = np.random.default_rng(0)
    assert plan_round(golden(lengths=LENGTHS, seed=int(generator.integers(100))), 512, 1, 5) == plan_round(
        golden(lengths=LENGTHS, seed=200), 512, 1, 5
    )
