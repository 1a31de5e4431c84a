"""Do adapter, base and a base that has learnt the task pass the canaries' own checks as they should?"""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from probes.errors import Refused, Unreplayable
from probes.golden.record import Golden
from probes.worth.checked_answers import (
    accepted_passes,
    accepted_text,
    checked_canaries,
    examples,
    with_examples,
    written,
)
from tests.probes.rebuild.worlds import ADAPTER, base_and_adapter, record_of
from tests.probes.tiny import opened, tiny_tokenizer
from tests.probes.worlds import never, silent


def with_checks(golden: Golden) -> Golden:
    """Each canary's own check wants what the golden answer begins with: most of these are cut."""
    wanted = {own.id: {"check": {"matches": f"{re.escape(accepted_text(own))}.*"}} for own in golden.canaries}
    return replace(golden, canaries=tuple(replace(own, expect=wanted[own.id], cut=False) for own in golden.canaries))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("worth")


@pytest.fixture(scope="module")
def enrolled(folder: Path) -> tuple[Path, Path, Golden]:
    base, adapter = base_and_adapter(folder)
    golden = record_of(base, adapter, folder / "cache")
    return base, adapter, with_checks(golden)


def learnt(base: Path, adapter: Path, folder: Path) -> Path:
    """A release of the base that does by itself what the adapter did on the base before."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
        model.merge_and_unload().save_pretrained(folder)
    return tiny_tokenizer(folder)


def test_the_adapter_passes_and_its_base_alone_does_not(enrolled: tuple[Path, Path, Golden], folder: Path) -> None:
    base, adapter, golden = enrolled
    canaries = checked_canaries(golden)
    assert len(canaries) > 8 and all(accepted_passes(own) for own in canaries)
    runner = opened(base, folder / "cache", {ADAPTER: adapter})
    try:
        own, alone = (written(runner, name, canaries, never, silent) for name in (ADAPTER, None))
    finally:
        runner.close()
    assert own.passes.all() and not alone.passes.any()
    starts = [text.startswith(accepted_text(canary)) for text, canary in zip(own.texts, canaries, strict=True)]
    assert all(starts)
    assert (own.prompt_tokens == alone.prompt_tokens).all() and own.prompt_tokens.min() > 5 < own.output_tokens.min()


def test_a_base_that_has_learnt_the_task_passes_alone(enrolled: tuple[Path, Path, Golden], folder: Path) -> None:
    base, adapter, golden = enrolled
    runner = opened(learnt(base, adapter, folder / "learnt"), folder / "cache", {ADAPTER: adapter})
    try:
        alone = written(runner, None, checked_canaries(golden), never, silent)
    finally:
        runner.close()
    assert np.mean(alone.passes) > 0.9


def test_only_held_out_canaries_say_something_where_the_others_were_chosen(
    enrolled: tuple[Path, Path, Golden],
) -> None:
    golden = enrolled[2]
    chosen = replace(golden, settings={**golden.settings, "select": True})
    assert {own.id for own in checked_canaries(chosen)} <= {own.id for own in golden.held_out}
    without = replace(golden, canaries=tuple(replace(own, expect={}) for own in golden.canaries))
    assert checked_canaries(without) == ()


def test_examples_are_of_the_other_half_and_the_same_for_each_prompt(enrolled: tuple[Path, Path, Golden]) -> None:
    golden = enrolled[2]
    shown = examples(golden, 3)
    assert shown == examples(golden, 3) != examples(golden, 3, seed=1)
    pool = {tuple(map(str, own.messages)) for own in golden.pool}
    assert all(tuple(map(str, turns)) in pool for turns, _ in shown)
    with pytest.raises(Refused, match="examples"):
        examples(golden, 1000)


def test_examples_stand_between_the_system_turn_and_the_request() -> None:
    system, user = {"role": "system", "content": "Route."}, {"role": "user", "content": "late"}
    other = ({"role": "system", "content": "Route."}, {"role": "user", "content": "lost"})
    turns = with_examples((system, user), [(other, "shipping")])
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant", "user"]
    assert [turn["content"] for turn in turns] == ["Route.", "lost", "shipping", "late"]
    assert with_examples((system, user), []) == [system, user]


def test_examples_cost_the_tokens_that_they_add(enrolled: tuple[Path, Path, Golden], folder: Path) -> None:
    base, adapter, golden = enrolled
    held_out = [own for own in checked_canaries(golden) if own in golden.held_out][:2]
    runner = opened(base, folder / "cache", {ADAPTER: adapter})
    try:
        plain, shown = (written(runner, None, held_out, never, silent, examples(golden, k)) for k in (0, 2))
        with pytest.raises(Unreplayable, match="stopped"):
            written(runner, None, held_out, lambda: True, silent)
    finally:
        runner.close()
    assert (shown.prompt_tokens - plain.prompt_tokens > 20).all()
