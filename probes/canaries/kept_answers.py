"""Answers of canaries that need not be computed again: the same files give the same answer on the same kernel.

Where a runner's answer is a pure function of the hashes of its files (``PureFunction`` of probes/runner.py), a round on
files that have not changed measures nothing new. Its canaries are drawn at random all the same, and what is drawn is
answered from here, so the bets stay as fair as they were: docs/mathematics.md#kept-answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from detectors.records import Summary
from probes.runner import PureFunction, Replay, Replayed, Runner, Target, Weights

# So old an answer is computed again: a check of the machine itself.
AGAIN_S = 86_400.0
# Beyond so many bytes the answers used longest ago are dropped, and computed when they are next drawn.
MOST_BYTES = 128_000_000


class _Key(NamedTuple):
    """All that an answer depends on. files: hashes of base and adapter; kept: the bytes of the token ids"""

    files: tuple[str, ...]
    computed_by: str
    target: Target
    prompt: tuple[int, ...]
    forced: tuple[int, ...]
    kept: bytes


class _Kept(NamedTuple):
    summary: Summary
    at: float

    @property
    def size(self) -> int:
        return sum(array.nbytes for array in (self.summary.log_probs, self.summary.rest, self.summary.top1))


@dataclass(slots=True)
class KeptAnswers:
    """Of one runner's live base and adapters; not saved: another process computes them once.

    Memory: at most ``most_bytes`` of numbers, beside the keys.
    """

    most_bytes: int = MOST_BYTES
    _kept: dict[_Key, _Kept] = field(default_factory=dict)
    _size: int = 0

    def known(self, runner: Runner, replays: Sequence[Replay], at: float) -> dict[Replay, Replayed]:
        """The answers to those replays that need not be computed at this time, seconds since the epoch; in their
        order."""
        if not isinstance(runner, PureFunction):
            return {}
        known: dict[Replay, Replayed] = {}
        for replay in replays:
            key = _key(runner, replay)
            entry = self._kept.get(key) if key else None
            if key and entry and 0 <= at - entry.at < AGAIN_S:
                self._kept[key] = self._kept.pop(key)  # the last to be dropped
                known[replay] = Replayed(replay, entry.summary)
        return known

    def keep(self, runner: Runner, answers: Iterable[Replayed], at: float) -> None:
        """Remember what was computed at that time, before the runner looks at its files again.

        Only answers within tolerance belong here: a fault is shown by computing again and not by remembering, and one
        of the machine would otherwise be drawn until the next day.
        """
        if not isinstance(runner, PureFunction):
            return
        for answer in answers:
            key = _key(runner, answer.replay)
            if key and answer.summary is not None:
                self._put(key, _Kept(answer.summary, at))

    def _put(self, key: _Key, entry: _Kept) -> None:
        self._drop(key)
        self._kept[key] = entry
        self._size += entry.size
        while self._size > self.most_bytes:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: _Key) -> None:
        if (before := self._kept.pop(key, None)) is not None:
            self._size -= before.size


def _key(runner: PureFunction, replay: Replay) -> _Key | None:
    """None where the answer depends on more than files that have a hash."""
    target, kept = replay.target, replay.kept
    if kept is None or target.weights is not Weights.LIVE or target.fault is not None or target.scale != 1:
        return None
    identity = runner.identity(target.adapter)
    files = (identity.live_base, *((identity.live_adapter,) if target.adapter else ()))
    return (
        _Key(files, runner.computed_by(), target, replay.prompt, replay.forced, kept.tobytes()) if all(files) else None
    )
