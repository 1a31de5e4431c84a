"""An enrolment that was interrupted goes on where it stopped, and ends in the same record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from probes.canaries.replay_pairs import Progress
from probes.enrolment import scale_curve
from probes.enrolment.checkpoint import FOLDER, Checkpoint
from probes.enrolment.enrol import Request, enrol
from probes.errors import Unreplayable
from probes.golden.record import Golden
from probes.runners.memory import Config
from tests.probes.worlds import ADAPTERS, SETTINGS, CountingRunner, canary_set, never, silent

QUICK = replace(SETTINGS, per_half=6, min_pool=6)


class Killed(BaseException):
    """As a signal ends a process: nothing catches it."""


class World:
    """Enrolments of one adapter in one folder. told: what was said of checkpoints; tokens: processed by the last one"""

    def __init__(self, folder: Path) -> None:
        self.folder, self.told, self.tokens = folder, list[str](), 0

    def checkpoint(self, setup: str = "") -> Checkpoint:
        return Checkpoint(self.folder, "alpha", setup, self.told.append)

    def enrolled(self, progress: Progress = silent, setup: str = "", config: Any = None, **changed: Any) -> Golden:
        runner = CountingRunner(config or Config(adapters=dict(ADAPTERS), noise=0.05))
        runner.open()
        settings = replace(QUICK, **changed)
        checkpoint = self.checkpoint(setup)
        try:
            others = ["beta"]
            return enrol(
                Request(runner, "alpha", canary_set(16), settings, others, progress, never), checkpoint=checkpoint
            )
        finally:
            self.tokens = runner.tokens_processed

    def killed_at(self, stage: str, done: int) -> None:
        def progress(name: str, so_far: int, total: int) -> None:
            if (name, so_far) == (stage, done):
                raise Killed

        with pytest.raises(Killed):
            self.enrolled(progress)

    @property
    def files(self) -> list[Path]:
        return sorted(path for path in (self.folder / FOLDER).rglob("*") if path.is_file())


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "killed")


@pytest.fixture
def uninterrupted(tmp_path: Path) -> tuple[str, int]:
    """The record's hash and the tokens that it took."""
    other = World(tmp_path / "uninterrupted")
    return other.enrolled().hash, other.tokens


@pytest.mark.parametrize(
    ("stage", "done", "steps"),
    [("continuations", 8, 0), (scale_curve.STAGE, 0, 1), (scale_curve.STAGE, 5, 1), ("battery", 3, 2)],
)
def test_an_enrolment_that_was_killed_ends_in_the_same_record(
    world: World, uninterrupted: tuple[str, int], stage: str, done: int, steps: int
) -> None:
    world.killed_at(stage, done)
    assert len(world.files) == steps
    golden = world.enrolled()
    assert golden.hash == uninterrupted[0] and world.told == []
    assert (world.tokens < uninterrupted[1]) is (steps > 0)


def test_without_a_checkpoint_the_record_is_the_same(uninterrupted: tuple[str, int]) -> None:
    runner = CountingRunner(Config(adapters=dict(ADAPTERS), noise=0.05))
    runner.open()
    golden = enrol(Request(runner, "alpha", canary_set(16), QUICK, ["beta"], silent, never))
    assert (golden.hash, runner.tokens_processed) == uninterrupted


def test_a_stop_keeps_the_finished_steps(world: World, uninterrupted: tuple[str, int]) -> None:
    runner = CountingRunner(Config(adapters=dict(ADAPTERS), noise=0.05))
    runner.open()
    stopped: list[bool] = []

    def progress(stage: str, done: int, total: int) -> None:
        if stage == "battery":
            stopped.append(True)

    with pytest.raises(Unreplayable, match="stopped"):
        enrol(
            Request(runner, "alpha", canary_set(16), QUICK, ["beta"], progress, lambda: bool(stopped)),
            checkpoint=world.checkpoint(),
        )  # fmt: skip
    assert len(world.files) == 2
    assert world.enrolled().hash == uninterrupted[0]


def test_a_damaged_step_is_made_again_and_that_is_said(world: World, uninterrupted: tuple[str, int]) -> None:
    world.killed_at("battery", 3)
    for file in world.files:
        content = bytearray(file.read_bytes())
        content[-100] ^= 1
        file.write_bytes(content)
    assert world.enrolled().hash == uninterrupted[0]
    assert len(world.told) == 2 and all("made again" in words for words in world.told)
    assert world.tokens == uninterrupted[1]
    for file in world.files:
        file.write_bytes(b"")
    assert world.enrolled().hash == uninterrupted[0]
    assert len(world.told) == 4


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"setup": "another attention kernel"},
        {"config": Config(adapters={**ADAPTERS, "alpha": "alpha-v2"}, noise=0.05)},
        {"config": Config(adapters={**ADAPTERS, "beta": "beta-v2"}, noise=0.05)},
    ],
)
def test_nothing_is_taken_from_other_files_or_settings(
    world: World, uninterrupted: tuple[str, int], other: dict[str, Any]
) -> None:
    world.killed_at("battery", 0)
    world.enrolled(**other)
    assert world.told == [] and len(world.files) == 4
    assert world.tokens > 0.8 * uninterrupted[1]


def test_time_and_reason_are_those_of_the_enrolment_that_ended(world: World, tmp_path: Path) -> None:
    world.killed_at("battery", 0)
    golden = world.enrolled(at=2_000_000_000.0, why="retrained", previous="sha256:" + "0" * 64)
    assert (golden.created_at, golden.why, golden.previous[-3:]) == (2_000_000_000.0, "retrained", "000")
    whole = World(tmp_path / "whole").enrolled(at=2_000_000_000.0, why="retrained", previous="sha256:" + "0" * 64)
    assert golden.hash == whole.hash


def test_nothing_is_left_once_it_is_removed(world: World) -> None:
    world.enrolled()
    assert len(world.files) == 2
    world.checkpoint().remove()
    assert list(world.folder.iterdir()) == []
    world.checkpoint().remove()
