"""What was computed on unchanged files is not computed again, and whatever changed is."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from detectors.canaries.tolerance import Tolerances, beyond_tolerance
from detectors.records import BaseRound, Measurement
from probes.canaries.canary_file import Canary, CanarySet
from probes.canaries.kept_answers import AGAIN_S, KeptAnswers
from probes.canaries.round import Scheduled, replay_base_round
from probes.enrolment.enrol import EnrolSettings, Request, enrol
from probes.golden.record import Golden
from probes.runners.in_process import Runner
from tests.probes.tiny import ends_now_and_then, opened, tiny_adapter, tiny_base

ROUNDS = 12


@dataclass(frozen=True, slots=True)
class World:
    runner: Runner
    adapter: Path
    golden: Golden

    def round(self, number: int, kept: KeptAnswers | None, at: float | None = None) -> BaseRound:
        scheduled = Scheduled("tiny", number, 60.0 * number if at is None else at, 512, 7)
        done = replay_base_round(self.runner, {"a": self.golden}, scheduled, lambda: False, kept)
        assert done is not None and done.members[0].blocked is None, done
        return done


@pytest.fixture(scope="module")
def accepted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Golden]:
    folder = tmp_path_factory.mktemp("accepted")
    base = ends_now_and_then(tiny_base(folder / "base", tied=False))
    adapter = tiny_adapter(folder / "a", base)
    texts = [f"q {i} {i * 37 % 101} item" for i in range(24)]
    canaries = CanarySet(tuple(Canary(f"c{i}", ({"role": "user", "content": text},)) for i, text in enumerate(texts)))
    settings = EnrolSettings("tiny", 1.0, per_half=4, min_pool=4, min_tokens=4, log_threshold=5.0, battery=("one row",))
    runner = opened(base, folder, {"a": adapter})
    golden = enrol(Request(runner, "a", canaries, settings, [], lambda *_: None, lambda: False))
    runner.close()
    return folder, golden


@pytest.fixture
def world(accepted: tuple[Path, Golden], tmp_path: Path) -> Iterator[World]:
    shutil.copytree(accepted[0], tmp_path / "volume")
    volume = tmp_path / "volume"
    runner = opened(volume / "base", tmp_path, {"a": volume / "a"})
    yield World(runner, volume / "a", accepted[1])
    runner.close()


def figures(done: BaseRound) -> list[tuple[str, float, float]]:
    rows: tuple[Measurement, ...] = done.members[0].measurements
    return [(m.comparison.reference.canary, round(m.retention, 4), round(m.scale, 4)) for m in rows]


def test_on_unchanged_files_every_answer_is_computed_once_and_every_round_is_measured(world: World) -> None:
    kept = KeptAnswers()
    with_kept = [world.round(number, kept) for number in range(ROUNDS)]
    computed = [world.round(number, None) for number in range(ROUNDS)]
    assert [figures(done) for done in with_kept] == [figures(done) for done in computed]
    assert [done.tokens_scored for done in with_kept] == [done.tokens_scored for done in computed]
    drawn = [{m.comparison.reference.canary for m in done.members[0].measurements} for done in with_kept]
    for number, done in enumerate(with_kept):
        new = drawn[number] - set().union(*drawn[:number])
        prompts = {canary.id: 2 * (len(canary.prompt) + len(canary.forced) - 1) for canary in world.golden.canaries}
        assert done.tokens_processed == sum(prompts[name] for name in new)
    assert with_kept[-1].tokens_processed == 0 < computed[-1].tokens_processed


def test_other_files_are_computed_and_a_fault_is_computed_in_every_round(world: World) -> None:
    kept = KeptAnswers()
    healthy = [world.round(number, kept) for number in range(ROUNDS)]
    weights = load_file(world.adapter / "adapter_model.safetensors")
    save_file({name: 0.5 * tensor for name, tensor in weights.items()}, world.adapter / "adapter_model.safetensors")
    for _ in range(3):  # two equal looks, then it is loaded
        world.runner.refresh()
    faulty = [world.round(number, kept) for number in range(ROUNDS, ROUNDS + 2)]
    for done in faulty:
        assert all(beyond_tolerance(m, Tolerances()) for m in done.members[0].measurements)
        assert done.tokens_processed > 0
    again = world.round(ROUNDS, kept)
    assert again.tokens_processed == faulty[0].tokens_processed, "the same draws, all computed again"
    save_file(weights, world.adapter / "adapter_model.safetensors")
    for _ in range(3):
        world.runner.refresh()
    mended = world.round(0, kept)
    assert (figures(mended), mended.tokens_processed) == (figures(healthy[0]), 0), "these files were measured before"


def test_once_a_day_and_after_the_clock_was_set_back_all_is_computed_again(world: World) -> None:
    kept = KeptAnswers()
    first, last = 1000.0, 1000.0 + ROUNDS
    for number in range(ROUNDS):
        world.round(number, kept, at=first + number)
    assert world.round(ROUNDS, kept, at=first + AGAIN_S - 1).tokens_processed == 0
    for at in (first - 1, last + AGAIN_S):
        done = world.round(ROUNDS, kept, at=at)
        assert done.tokens_processed == world.round(ROUNDS, None, at=at).tokens_processed > 0


def test_beyond_its_bytes_the_answers_used_longest_ago_are_dropped(world: World) -> None:
    of_one = KeptAnswers()
    world.round(0, of_one)
    size = of_one._size
    assert size > 0
    bounded = KeptAnswers(most_bytes=size // 2)
    for number in range(ROUNDS):
        done = world.round(number, bounded)
        assert 0 < bounded._size <= size // 2
        assert figures(done) == figures(world.round(number, None))
