"""Replays of canaries through a runner: under the adapter and under its base, and the answer to each replay.

Both sides of a measurement come from here; enrolment and rounds have to ask alike, or their answers do not compare.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from detectors.records import Floats, Summary
from probes.errors import Unreplayable
from probes.golden.record import GoldenCanary
from probes.runner import BatchShape, Listing, Replay, Replayed, Runner, Stop, Target
from probes.serving.engine import Listed

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, eq=False)
class ReplayPair:
    """The two replays of one canary: under the adapter, and under its base."""

    canary: GoldenCanary
    adapter: Replay
    base: Replay

    @property
    def replays(self) -> tuple[Replay, Replay]:
        return self.adapter, self.base


def replay_pair(canary: GoldenCanary, adapter: str, prompt: tuple[int, ...] | None = None) -> ReplayPair:
    """The two replays of a golden canary, over its kept tokens.

    prompt: token ids to use instead of the accepted ones
    """
    prompt_ids = canary.prompt if prompt is None else prompt

    def replay(target: Target) -> Replay:
        return Replay(canary.id, prompt_ids, canary.forced, target, canary.reference.kept, canary.reference.listed)

    return ReplayPair(canary, replay(Target(adapter)), replay(Target(None)))


def ask(
    runner: Runner, replays: Sequence[Replay], stop: Stop, shape: BatchShape | None = None
) -> dict[Replay, Replayed]:
    """The answer to each replay; fewer when ``stop()`` became true. Raises Unreplayable as the runner does.

    Replays are distinguished by object identity: canaries of two adapters may share an id, and both replay the base.
    """
    return {answer.replay: answer for answer in runner.run(replays, stop, shape)}


def ask_all(
    runner: Runner, replays: Sequence[Replay], stop: Stop, shape: BatchShape | None = None
) -> dict[Replay, Replayed]:
    """``ask`` where every answer is needed: raises Unreplayable when it was stopped before the last."""
    answers = ask(runner, replays, stop, shape)
    _check_whole(len(answers), len(replays))
    return answers


def all_listed(runner: Listing, replays: Sequence[Replay], stop: Stop) -> dict[Replay, Listed]:
    """What a serving engine lists for each replay. Raises Unreplayable as ``ask_all`` does."""
    answers = runner.listings(replays, stop)
    _check_whole(len(answers), len(replays))
    return answers


def _check_whole(count: int, wanted: int) -> None:
    if count < wanted:
        raise Unreplayable("enrolment", f"stopped after {count} of {wanted} replays")


def summary(answer: Replayed) -> Summary:
    if answer.summary is None:
        raise Unreplayable(
            f"canary {answer.replay.canary}", "the runner answered without the kept tokens that were requested"
        )
    return answer.summary


def full(answer: Replayed) -> Floats:
    if answer.full is None:
        raise Unreplayable(f"canary {answer.replay.canary}", "the runner does not return the whole vocabulary")
    return answer.full
