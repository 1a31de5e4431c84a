"""Asking a runner for canaries, and keeping its answers apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from detectors.records import Floats, Summary
from probes.errors import Unreplayable
from probes.golden.record import GoldenCanary
from probes.runner import BatchShape, Replay, Replayed, Runner, Stop, Target

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, eq=False)
class ReplayPair:
    """One canary, asked under the adapter's name and under the base's."""

    canary: GoldenCanary
    adapter: Replay
    base: Replay

    @property
    def replays(self) -> tuple[Replay, Replay]:
        return self.adapter, self.base


def replay_pair(canary: GoldenCanary, adapter: str, prompt: tuple[int, ...] | None = None) -> ReplayPair:
    """The two replays of a golden canary, over its kept tokens.

    prompt: token ids to read in place of the accepted ones
    """
    read = canary.prompt if prompt is None else prompt

    def replay(target: Target) -> Replay:
        return Replay(canary.id, read, canary.forced, target, canary.reference.kept)

    return ReplayPair(canary, replay(Target(adapter)), replay(Target(None)))


def ask(
    runner: Runner, replays: Sequence[Replay], stop: Stop, shape: BatchShape | None = None
) -> dict[Replay, Replayed]:
    """The answer to each replay; fewer when ``stop()`` became true. Raises Unreplayable as the runner does.

    Replays are told apart as objects: canaries of two adapters may share an id, and both ask the base.
    """
    return {answer.replay: answer for answer in runner.run(replays, stop, shape)}


def ask_all(
    runner: Runner, replays: Sequence[Replay], stop: Stop, shape: BatchShape | None = None
) -> dict[Replay, Replayed]:
    """``ask`` where every answer is needed: raises Unreplayable when it was stopped half-way."""
    answers = ask(runner, replays, stop, shape)
    if len(answers) < len(replays):
        raise Unreplayable("enrolment", f"stopped after {len(answers)} of {len(replays)} replays")
    return answers


def summary(answer: Replayed) -> Summary:
    if answer.summary is None:
        raise Unreplayable(
            f"canary {answer.replay.canary}", "the runner answered without the kept tokens it was asked for"
        )
    return answer.summary


def full(answer: Replayed) -> Floats:
    if answer.full is None:
        raise Unreplayable(f"canary {answer.replay.canary}", "the runner cannot answer over its whole vocabulary")
    return answer.full
