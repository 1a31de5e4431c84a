"""Is the cheapest choice that does the task the verdict, and is what decides named?"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from detectors.economics.choices import (
    Assumptions,
    Examples,
    Kind,
    Situation,
    at_stake,
    break_even,
    choices,
    deciders,
    pays_back_days,
    true_cost,
    verdict,
)
from detectors.economics.worth import Worth

FORM = Assumptions()
NOW = Situation(
    worth=Worth.ADDS,
    accepted_right=1.0,
    adapter_right=1.0,
    base_right=0.1,
    requests=100_000.0,
    watch_day=1.0,
    input_token=1e-7,
    gpu_hour=2.0,
    person_day=600.0,
    examples=(Examples(0, 0.1, 0.0), Examples(2, 0.5, 60.0), Examples(8, 0.95, 240.0)),
    adapter_held_out=1.0,
)


def test_each_choice_costs_what_it_is_made_of() -> None:
    keep, pin, rebuild, *prompts, retire = choices(NOW, FORM)
    upkeep = 1.0 + 6 * 600 / 365
    assert (keep.one_off, keep.daily) == pytest.approx((0.0, upkeep))
    assert pin.daily == pytest.approx(upkeep + 24 * 2.0)
    assert rebuild.one_off == pytest.approx(600.0 + 2.0)
    assert [own.examples for own in prompts] == [2, 8]
    assert prompts[1].daily == pytest.approx(100_000 * 240 * 1e-7) and prompts[1].one_off == 1.5 * 600
    assert (retire.one_off, retire.daily) == (300.0, 0.0)
    assert keep.total == pytest.approx(365 * upkeep)


def test_the_true_cost_counts_failed_runs_and_people() -> None:
    assert true_cost(FORM, 2.0, 600.0) == 7 * 600 + 4 * 2 * 2.0
    from_data = choices(replace(NOW, rebuildable=False), FORM)
    assert from_data[2].one_off == true_cost(FORM, 2.0, 600.0)


def test_examples_that_do_the_task_for_less_are_the_verdict_and_others_are_not() -> None:
    made = choices(NOW, FORM)
    assert [own.eligible for own in made] == [True, True, True, False, True, False]
    assert (verdict(made).kind, verdict(made).examples) == (Kind.PROMPT, 8)
    assert at_stake(made, 365.0) == pytest.approx(made[0].total - verdict(made).total)
    busy = choices(replace(NOW, requests=1_000_000.0), FORM)
    assert verdict(busy).kind is Kind.KEEP and at_stake(busy, 365.0) == 0.0


def test_the_volume_at_which_the_adapter_pays_is_where_a_day_of_both_costs_the_same() -> None:
    needed = break_even(NOW, replace(FORM, wrong_answer=0.001))
    assert math.isfinite(needed)
    at = replace(NOW, requests=needed)
    keep, *_, prompt, _ = choices(at, FORM)
    wrong = 0.001 * needed * (1 - prompt.right)
    assert keep.daily == pytest.approx(prompt.daily + wrong)


def test_without_examples_a_right_answer_has_to_have_a_price() -> None:
    bare = replace(NOW, examples=())
    assert break_even(bare, FORM) == math.inf
    assert break_even(bare, replace(FORM, wrong_answer=0.01)) == pytest.approx((1 + 3600 / 365) / (0.9 * 0.01))


def test_a_base_that_passes_alone_is_retired_and_one_that_does_not_never_is() -> None:
    assert verdict(choices(replace(NOW, worth=Worth.BASE_PASSES, base_right=1.0), FORM)).kind is Kind.RETIRE
    for found in (Worth.ADDS, Worth.LOST, Worth.UNCLEAR):
        free = replace(NOW, worth=found, base_right=1.0, person_day=1e6)
        assert verdict(choices(free, FORM)).kind is not Kind.RETIRE


def test_a_lost_adapter_is_rebuilt_and_all_that_it_costs_is_at_stake() -> None:
    made = choices(replace(NOW, worth=Worth.LOST, adapter_right=0.1), FORM)
    assert verdict(made).kind is Kind.REBUILD and not made[0].eligible
    assert at_stake(made, 365.0) == pytest.approx(made[0].total)


def test_a_rebuild_pays_back_against_the_cheapest_other_choice() -> None:
    lost = replace(NOW, worth=Worth.LOST, adapter_right=0.1, examples=())
    assert pays_back_days(lost, FORM) == pytest.approx(602.0 / 48.0)  # against the pinned base
    assert pays_back_days(NOW, FORM) == math.inf  # what it would save nobody has lost


def test_without_counted_requests_a_prompt_has_no_price_and_is_no_verdict() -> None:
    made = choices(replace(NOW, requests=math.nan), FORM)
    assert verdict(made).kind is Kind.KEEP and math.isnan(made[4].total)


def test_the_assumption_that_decides_is_first() -> None:
    found = deciders(NOW, FORM)
    factors = [abs(math.log(own.factor)) for own in found]
    assert factors == sorted(factors) and {"requests", "input_token"} <= {own.name for own in found}
    for own in found:
        assert own.verdict is not Kind.PROMPT
    first = found[0]
    change: dict[str, Any] = {first.name: first.value * first.factor}
    in_situation = hasattr(NOW, first.name)
    changed = choices(replace(NOW, **change), FORM) if in_situation else choices(NOW, replace(FORM, **change))
    assert verdict(changed).kind is first.verdict


def test_where_nothing_decides_none_is_named() -> None:
    sure = replace(NOW, worth=Worth.BASE_PASSES, base_right=1.0, examples=(), watch_day=1000.0)
    assert deciders(sure, FORM) == ()
