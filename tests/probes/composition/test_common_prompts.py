"""Prompts that two members have in common: who passes whose check, and what a composition answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from probes.canaries.answer_check import CHECK
from probes.composition.common_prompts import CommonAnswers, answers_on, common_prompts
from probes.composition.compose import compose, read_members, write
from probes.composition.recipe import Member, Recipe
from probes.errors import Unreplayable
from probes.golden.record import Golden
from probes.rebuild.acceptance import SPECIAL_END
from tests.probes.composition.conftest import Pair
from tests.probes.tiny import opened
from tests.probes.worlds import never

MEMBERS = ("tone", "form")


def checking(golden: Golden) -> Golden:
    """Each canary wants what was accepted, word for word."""
    wanted = {own.id: SPECIAL_END.sub("", own.golden_text) for own in golden.canaries}
    canaries = [replace(own, expect={CHECK: {"equals": wanted[own.id]}}) for own in golden.canaries]
    return replace(golden, canaries=tuple(canaries))


@pytest.fixture(scope="module")
def goldens(pair: Pair) -> dict[str, Golden]:
    return {name: checking(pair.goldens[name]) for name in MEMBERS}


def test_members_whose_accepted_answers_differ_exclude_each_other(goldens: dict[str, Golden]) -> None:
    prompts = common_prompts(goldens)
    assert prompts and all(own.members == MEMBERS for own in prompts)
    alike = [own.canaries[0].golden_text == own.canaries[1].golden_text for own in prompts]
    assert [own.excluding for own in prompts] == [not same for same in alike] and not all(alike)


def test_no_prompt_is_common_without_a_check_that_its_own_answer_passes(pair: Pair, goldens: dict[str, Golden]) -> None:
    assert common_prompts(pair.goldens) == (), "no checks at all"
    wrong = [replace(own, expect={CHECK: {"equals": "another text"}}) for own in goldens["form"].canaries]
    assert common_prompts(goldens | {"form": replace(goldens["form"], canaries=tuple(wrong))}) == ()


@pytest.mark.parametrize(("weights", "passed"), [((1.0, 1e-6), "first"), ((1e-6, 1.0), "second")])
def test_what_is_nearly_one_member_alone_passes_its_checks_alone(
    pair: Pair, goldens: dict[str, Golden], tmp_path: Path, weights: tuple[float, float], passed: str
) -> None:
    prompts = [own for own in common_prompts(goldens) if own.excluding]
    recipe = Recipe(tuple(map(Member, MEMBERS, weights)), "cat")
    made = write(compose(recipe, read_members(recipe, pair.folders)), pair.folders["tone"], tmp_path / "both")
    runner = opened(pair.base, pair.cache, {"both": made})
    try:
        (answers,) = answers_on(runner, "both", prompts, never)
        with pytest.raises(Unreplayable, match="stopped"):
            answers_on(runner, "both", prompts, lambda: True)
    finally:
        runner.close()
    assert getattr(answers, passed) == answers.prompts == len(prompts) and answers.example
    assert answers_on(runner, "both", (), never) == ()


def test_one_wrong_answer_alone_is_never_too_many() -> None:
    answers = CommonAnswers(MEMBERS, both=6, first=1, second=2, neither=1, example="neither here nor there")
    assert (answers.prompts, answers.failed("tone"), answers.failed("form")) == (10, 3, 2)
    assert answers.lacks("tone", 0.2) and not answers.lacks("form", 0.2) and answers.lacks("form", 0.1)
    assert not answers.lacks("safety", 0.0)
    assert not replace(answers, second=0).lacks("tone", 0.0), "one answer alone"
