"""Does training lower the divergence, end alike with and without a stop, and is the divergence right?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from probes.artefacts.lora_files import LowRankUpdate
from probes.canaries.log_prob_summary import keep, summarise
from probes.errors import Refused
from probes.model.build import build, read_base
from probes.model.forward import Model
from probes.rebuild.lessons import Lesson
from probes.rebuild.training import Recipe, Trained, Training, divergence, fresh_updates, needed_bytes, train
from probes.runner import Target
from tests.probes.rebuild.worlds import PLACEMENT, base_and_adapter
from tests.probes.tiny import full, opened
from tests.probes.worlds import never, silent

RECIPE = Recipe(steps=24, batch=4, rate=5e-3, checked_every=8, seed=3, rank=8, alpha=16.0)
MODULES = ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj", "model.layers.0.self_attn.v_proj")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, list[Lesson]]:
    folder = tmp_path_factory.mktemp("world")
    base, adapter = base_and_adapter(folder)
    runner = opened(base, folder, {"a": adapter})
    generator = np.random.default_rng(0)
    texts = [
        (tuple(map(int, generator.integers(3, 90, 6))), tuple(map(int, generator.integers(3, 90, n))))
        for n in (5, 9, 7, 6, 8, 5, 9, 7)
    ]
    lessons = []
    for (_, index), table in sorted(full(runner, [Target("a")], texts).items(), key=lambda item: item[0][1]):
        prompt, forced = texts[index]
        kept = keep(table, table, np.asarray(forced, np.int32), 10)
        summary = summarise(table, kept)
        lessons.append(Lesson(prompt, forced, kept, summary.log_probs, summary.rest))
    runner.close()
    return build(read_base(base), PLACEMENT), lessons


def trained(
    world: tuple[Model, list[Lesson]],
    recipe: Recipe = RECIPE,
    checkpoint: Path | None = None,
    steps_until_stop: int = 10**9,
) -> Trained | None:
    model, lessons = world
    count = iter(range(10**9))
    wanted = Training(fresh_updates(model, MODULES, recipe), lessons, recipe, checkpoint=checkpoint)
    return train(model, wanted, lambda: next(count) >= steps_until_stop, silent)


def test_the_divergence_is_that_of_the_whole_vocabulary_where_all_of_it_is_kept() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, accepted = (torch.randn(5, 12, generator=generator) for _ in range(2))
    log_probs = accepted.log_softmax(-1)
    kept = torch.arange(12).repeat(5, 1)
    got = divergence(logits, kept, log_probs, torch.full((5,), -torch.inf))
    wanted = torch.nn.functional.kl_div(logits.log_softmax(-1), log_probs, log_target=True, reduction="none").sum(1)
    assert torch.allclose(got, wanted, atol=1e-5)
    same = divergence(accepted, kept, log_probs, torch.full((5,), -torch.inf))
    assert float(same.abs().max()) < 1e-5


def test_the_tail_counts_as_one_bucket_and_pads_as_nothing() -> None:
    generator = torch.Generator().manual_seed(1)
    logits, accepted = (torch.randn(3, 9, generator=generator) for _ in range(2))
    own, log_probs = logits.log_softmax(-1), accepted.log_softmax(-1)
    kept = torch.tensor([[4, 1, -1], [2, 7, 8], [0, -1, -1]])
    given = torch.where(kept >= 0, log_probs.gather(1, kept.clamp(min=0)), -torch.inf)
    masked = torch.stack([row.index_fill(0, k[k >= 0], -torch.inf) for row, k in zip(log_probs, kept, strict=True)])
    got = divergence(logits, kept, given, masked.logsumexp(1))
    for row in range(3):
        ids = [int(k) for k in kept[row] if k >= 0]
        others = [k for k in range(9) if k not in ids]
        p, q = log_probs[row].exp(), own[row].exp()
        wanted = sum(float(p[k] * (p[k] / q[k]).log()) for k in ids)
        tail_p, tail_q = float(p[others].sum()), float(q[others].sum())
        assert float(got[row]) == pytest.approx(wanted + tail_p * np.log(tail_p / tail_q), abs=1e-5)


def test_it_learns_and_keeps_the_best_step(world: tuple[Model, list[Lesson]]) -> None:
    done = trained(world)
    assert done is not None
    losses = [entry.trained for entry in done.course]
    assert losses[-1] < 0.7 * losses[0]
    assert done.best == min(done.course, key=lambda entry: entry.checked).step
    assert set(done.updates) == set(MODULES) and all(isinstance(own, LowRankUpdate) for own in done.updates.values())


def test_a_run_that_was_stopped_ends_as_one_that_was_not(world: tuple[Model, list[Lesson]], tmp_path: Path) -> None:
    whole = trained(world)
    file = tmp_path / "training.safetensors"
    assert trained(world, checkpoint=file, steps_until_stop=18) is None and file.is_file()
    assert trained(world, checkpoint=file, steps_until_stop=0) is None
    # The 6 that are left of 24: it goes on from the step at which it was stopped, and not from the last check, at 16.
    went_on = trained(world, checkpoint=file, steps_until_stop=6)
    assert whole is not None and went_on is not None and went_on.course == whole.course
    for name, own in whole.updates.items():
        assert torch.equal(own.a, went_on.updates[name].a) and torch.equal(own.b, went_on.updates[name].b)


def test_a_checkpoint_of_something_else_is_left_alone(world: tuple[Model, list[Lesson]], tmp_path: Path) -> None:
    file = tmp_path / "training.safetensors"
    assert trained(world, checkpoint=file, steps_until_stop=18) is None
    other = replace(RECIPE, seed=4)
    assert trained(world, other, file, steps_until_stop=8) is None  # begins at 0, so 8 steps are too few
    model, lessons = world
    others = [replace(lessons[0], rest=lessons[0].rest - 0.5), *lessons[1:]]  # as many, and not the same
    assert trained((model, others), checkpoint=file, steps_until_stop=8) is None
    file.write_bytes(b"damaged")
    assert trained(world, checkpoint=file) is not None


def test_the_base_is_left_as_it_was(world: tuple[Model, list[Lesson]]) -> None:
    model, _ = world
    before = {name: own.clone() for name, own in model.network.named_parameters()}
    trained(world, replace(RECIPE, steps=2, batch=2, checked_every=2))
    assert all(torch.equal(own, before[name]) for name, own in model.network.named_parameters())
    assert not any(module._forward_hooks for module in model.network.modules())


def test_memory_grows_with_what_it_depends_on(world: tuple[Model, list[Lesson]]) -> None:
    model, lessons = world
    little = needed_bytes(model, lessons, RECIPE, 1000)
    assert 0 < little < needed_bytes(model, lessons, RECIPE, 10**6)
    long = [Lesson(lesson.prompt * 40, lesson.forced, lesson.kept, lesson.log_probs, lesson.rest) for lesson in lessons]
    assert needed_bytes(model, long, RECIPE, 1000) > little


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"batch": 0}, {"rate": 0.0}, {"checked": 1.0}])
def test_a_recipe_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(Refused):
        Recipe(**wrong)  # type: ignore[arg-type]


def test_nothing_to_train_on_is_refused(world: tuple[Model, list[Lesson]]) -> None:
    model, _ = world
    with pytest.raises(Refused, match="0 lessons"):
        train(model, Training(fresh_updates(model, MODULES, RECIPE), [], RECIPE), never, silent)
