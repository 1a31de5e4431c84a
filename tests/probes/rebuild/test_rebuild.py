"""A successor end to end: re-expressed without training, trained where that does not do, resumed, and never from the
held-out canaries."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from examples.helpdesk.releases import make_release, merge_lora
from probes.artefacts.lora_files import read_adapter
from probes.golden.record import Golden
from probes.rebuild.lessons import Lesson, of_record
from probes.rebuild.lessons import read as read_lessons
from probes.rebuild.rebuild import (
    PLAIN,
    RE_EXPRESSED,
    RETRAINED,
    Kept,
    NewBase,
    Rebuilt,
    Wish,
    Working,
    _base_in_memory,
    _other_tokens,
    rebuild,
)
from probes.rebuild.training import Recipe
from probes.runners.in_process import Runner
from tests.probes.rebuild.conftest import Enrolled
from tests.probes.rebuild.worlds import ADAPTER, CANARIES, PLACEMENT, runner_over
from tests.probes.tiny import ends_now_and_then, opened, tiny_adapter, tiny_base
from tests.probes.worlds import silent

WISH = Wish(Recipe(steps=30, rate=1e-3, checked_every=10), written=0, most_tokens=8, always=True)


def working(folder: Path, said: list[str], steps_until_stop: int = 10**9) -> Working:
    count = iter(range(10**9))
    return Working(
        runner_over(folder / "cache"),
        PLACEMENT,
        folder / "out",
        silent,
        said.append,
        lambda: next(count) >= steps_until_stop,
    )


def kept(enrolled: Enrolled, golden: Golden | None = None) -> Kept:
    return Kept(golden or enrolled.golden, enrolled.adapter, enrolled.base, CANARIES.canaries[:12])


def names(done: Rebuilt | None) -> list[str]:
    assert done is not None
    return [own.name for own in done.candidates]


def test_a_permuted_base_takes_the_adapter_over_without_training(enrolled: Enrolled, tmp_path: Path) -> None:
    new = make_release("reparameterised", enrolled.base, tmp_path / "new")
    said: list[str] = []
    done = rebuild(kept(enrolled), NewBase(new, "org/new"), replace(WISH, always=False), working(tmp_path, said))
    assert names(done) == [RE_EXPRESSED, PLAIN] and done is not None and done.trained is None
    assert done.successor is not None and done.successor.name == RE_EXPRESSED
    retention = done.successor.acceptance.retention
    assert retention is not None and retention.low >= 0.99
    plain = done.candidates[1]
    assert plain.failures and plain.acceptance.retention is not None and plain.acceptance.retention.mean < 0.5
    assert "permutation" in done.move and said[0].startswith("coordinates: a permutation")


@pytest.fixture(scope="module")
def improved(enrolled: Enrolled, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base with a strong tune merged in, under which the adapter as it is keeps less than is wanted."""
    folder = tmp_path_factory.mktemp("improved")
    tune = tiny_adapter(folder / "tune", enrolled.base, seed=21, target_modules=["q_proj", "o_proj", "up_proj"])
    tensors = merge_lora(load_file(enrolled.base / "model.safetensors"), tune, 1.0)
    new = folder / "base"
    new.mkdir()
    for file in enrolled.base.iterdir():
        if file.suffix != ".safetensors":
            (new / file.name).write_bytes(file.read_bytes())
    save_file(
        {name: own.contiguous() for name, own in tensors.items()}, new / "model.safetensors", metadata={"format": "pt"}
    )
    return new


@pytest.fixture(scope="module")
def whole(
    enrolled: Enrolled, improved: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Rebuilt, Path, list[str]]:
    """A rebuild that was not stopped, its folder, and what it said."""
    folder, said = tmp_path_factory.mktemp("whole"), list[str]()
    done = rebuild(kept(enrolled), NewBase(improved, "org/new"), WISH, working(folder, said))
    assert done is not None
    return done, folder / "out", said


def test_what_is_trained_is_nearer_than_the_copy_and_no_held_out_text_is_read(
    enrolled: Enrolled, whole: tuple[Rebuilt, Path, list[str]]
) -> None:
    done, out, said = whole
    assert set(names(done)) == {PLAIN, RETRAINED}
    by_name = {own.name: own.acceptance.of_answers for own in done.candidates}
    before, after = by_name[PLAIN], by_name[RETRAINED]
    assert before is not None and after is not None and abs(after.mean - 1) < abs(before.mean - 1)
    assert any(words.startswith("training: ") and "beside the base's" in words for words in said)
    held_out = {canary.prompt for canary in enrolled.golden.held_out}
    made = load_file(out / "unfinished" / "lessons.safetensors")
    learnt = {tuple(map(int, own)) for name, own in made.items() if name.endswith(".prompt")}
    assert learnt and not learnt & held_out


def test_it_goes_on_where_it_was_stopped_and_ends_alike(
    enrolled: Enrolled, improved: Path, whole: tuple[Rebuilt, Path, list[str]], tmp_path: Path
) -> None:
    new = NewBase(improved, "org/new")
    # The stop is looked at between tokens, batches and steps: this one comes in the middle of the training.
    assert rebuild(kept(enrolled), new, WISH, working(tmp_path, [], 60)) is None
    assert (tmp_path / "out" / "unfinished" / "lessons.safetensors").is_file()
    assert rebuild(kept(enrolled), new, WISH, working(tmp_path, [])) is not None
    weights = [load_file(out / "retrained" / "adapter_model.safetensors") for out in (whole[1], tmp_path / "out")]
    assert weights[0].keys() == weights[1].keys()
    assert all((own == weights[1][name]).all() for name, own in weights[0].items())


def test_stopped_during_the_acceptance_test_it_goes_on_and_measures_nothing_twice(
    enrolled: Enrolled, tmp_path: Path
) -> None:
    new = NewBase(make_release("reparameterised", enrolled.base, tmp_path / "new"), "org/new")
    wish = replace(WISH, trained=False)
    assert rebuild(kept(enrolled), new, wish, working(tmp_path, [], 1)) is None
    unfinished = tmp_path / "out" / "unfinished"
    assert not list(unfinished.glob("*.json"))
    whole = rebuild(kept(enrolled), new, wish, working(tmp_path, []))
    files = {file.name: file.stat().st_mtime_ns for file in unfinished.glob("*.json")}
    assert set(files) == {"plain.json", "re-expressed.json"}
    again = rebuild(kept(enrolled), new, wish, working(tmp_path, []))
    assert files == {file.name: file.stat().st_mtime_ns for file in unfinished.glob("*.json")}
    assert whole is not None and again is not None
    assert [own.acceptance for own in whole.candidates] == [own.acceptance for own in again.candidates]
    # Of another record nothing that was measured holds.
    other = replace(enrolled.golden, hash="sha256:another")
    assert rebuild(kept(enrolled, other), new, wish, working(tmp_path, [])) is not None
    assert files != {file.name: file.stat().st_mtime_ns for file in unfinished.glob("*.json")}


def test_on_a_base_of_another_shape_it_begins_from_nothing(enrolled: Enrolled, tmp_path: Path) -> None:
    narrow = tiny_base(tmp_path / "narrow", seed=3, tied=False, head_dim=8)
    wish, alone = replace(WISH, recipe=Recipe(steps=2, batch=4)), replace(kept(enrolled), canaries=())
    done = rebuild(alone, NewBase(narrow, "org/new"), wish, working(tmp_path, []))
    assert names(done) == [RETRAINED, PLAIN] and done is not None and "do not fit" in done.candidates[1].failures[0]
    assert any("from nothing" in words for words in done.notes)


def test_without_the_accepted_base_the_record_alone_is_learnt_from(
    enrolled: Enrolled, improved: Path, tmp_path: Path
) -> None:
    alone = Kept(enrolled.golden, enrolled.adapter, None)
    done = rebuild(
        alone, NewBase(improved, "org/new"), replace(WISH, recipe=Recipe(steps=4, batch=4)), working(tmp_path, [])
    )
    assert done is not None and done.lessons == len(enrolled.golden.pool)
    assert any("not kept" in words for words in done.notes)


def test_prompts_that_the_base_makes_up_are_learnt_from_too(enrolled: Enrolled, improved: Path, tmp_path: Path) -> None:
    wish = replace(WISH, recipe=Recipe(steps=2, batch=4), written=4)
    alone = replace(kept(enrolled), canaries=())
    done = rebuild(alone, NewBase(improved, "org/new"), wish, working(tmp_path, []))
    assert done is not None and done.lessons > 2 * len(enrolled.golden.pool)
    assert read_lessons(tmp_path / "out" / "unfinished" / "lessons.safetensors", {"another": 1}) is None


def test_no_training_where_none_is_wanted(enrolled: Enrolled, improved: Path, tmp_path: Path) -> None:
    done = rebuild(
        kept(enrolled), NewBase(improved, "org/new"), replace(WISH, trained=False, always=False), working(tmp_path, [])
    )
    assert names(done) == [PLAIN] and done is not None and done.trained is None
    assert ADAPTER not in done.candidates[0].name


def test_prompts_that_are_given_hold_no_held_out_canary(enrolled: Enrolled, improved: Path, tmp_path: Path) -> None:
    """Canaries may have been chosen from the very requests that are given; and of these one may be too long."""
    held_out = [canary.messages for canary in enrolled.golden.held_out]
    endless = ({"role": "user", "content": "q" * 3000},)
    alone = Kept(enrolled.golden, enrolled.adapter, enrolled.base, (), [*held_out, endless])
    wish = replace(WISH, recipe=Recipe(steps=1, batch=4))
    done = rebuild(alone, NewBase(improved, "org/new"), wish, working(tmp_path, []))
    assert done is not None and any("1 of" in words and "context" in words for words in done.notes)
    learnt = {own.prompt for own in lessons_of(tmp_path / "out" / "unfinished" / "lessons.safetensors")}
    assert learnt and not learnt & {canary.prompt for canary in enrolled.golden.held_out}


def lessons_of(file: Path) -> list[Lesson]:
    with safe_open(file, framework="np") as opened:
        made_from = json.loads(opened.metadata()["made_from"])
    return read_lessons(file, made_from) or []


def test_parts_from_nothing_have_the_rank_and_the_scaling_of_the_accepted_ones(
    enrolled: Enrolled, tmp_path: Path
) -> None:
    narrow = tiny_base(tmp_path / "narrow", seed=3, tied=False, head_dim=8)
    wish = replace(WISH, recipe=Recipe(steps=1, batch=4))
    done = rebuild(replace(kept(enrolled), canaries=()), NewBase(narrow, "org/new"), wish, working(tmp_path, []))
    assert done is not None
    (folder,) = [own.folder for own in done.candidates if own.name == RETRAINED]
    before, after = (list(read_adapter(place).low_rank.values()) for place in (enrolled.adapter, folder))
    assert {part.a.shape[0] for part in after} == {part.a.shape[0] for part in before} == {4}
    assert {part.scaling for part in after} == {part.scaling for part in before}


def test_with_another_tokenizer_texts_are_rendered_by_its_own_template_and_end_as_its_answers_do(
    enrolled: Enrolled, tmp_path: Path
) -> None:
    other = ends_now_and_then(tiny_base(tmp_path / "other", seed=3, tied=False))
    file = other / "tokenizer_config.json"
    template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% if m.role == 'assistant' %}<e>{% endif %}{% endfor %}"
    )
    for place in (file, other / "chat_template.jinja"):
        if place.suffix == ".jinja" and place.is_file():
            place.write_text(template)
        elif place == file:
            place.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": template}))
    old, new = (opened(base, tmp_path) for base in (enrolled.base, other))
    lesson = next(own for own in of_record(enrolled.golden) if old.decode(own.forced).endswith("<e>"))
    texts = map(old.decode, (lesson.prompt, lesson.forced))
    prompt, answer = _other_tokens(new, new.end_of_answer(), lesson.turns, *texts)
    assert new.decode(prompt) == f"[user]{lesson.turns[0]['content']}"
    assert answer[-1] == new.end_of_answer() and "<e>" not in new.decode(answer[:-1])
    for runner in (old, new):
        runner.close()


def test_the_base_that_is_in_memory_writes_prompts_itself(enrolled: Enrolled, tmp_path: Path) -> None:
    work = working(tmp_path, [])
    runner = work.make(enrolled.base, {ADAPTER: enrolled.adapter})
    runner.open()
    try:
        assert isinstance(runner, Runner)
        assert _base_in_memory(kept(enrolled), runner, work) is runner.loaded.live
    finally:
        runner.close()
