"""The feed of canaries: rounds, of engines and of files, regenerated texts, replayed faults and golden records newly
in force, as the worker finished them.

It belongs to the loop's thread. A base that gave no round for too long gets a blocked one here, so that a worker that
hangs or has ended shows as unmonitorable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from agent.records import Flip, GoldenAccepted
from agent.worker.silence import Blocked, Silence
from detectors.records import BaseRound, FaultReplay, FilesRound, Reason, Round

CanaryResult = BaseRound | FaultReplay | FilesRound | Flip | GoldenAccepted


class CanaryFeed:
    """bases: base -> its adapters; every_s: seconds between two rounds of one base, None where no canary is replayed
    own_every_s: base -> seconds of those that have others

    A base without a round for its interval and STUCK_S more gives a blocked one with the next number. After a
    ``Blocked`` it gives one at its usual interval, with that reason, until it is replayed again.
    """

    def __init__(
        self,
        bases: Mapping[str, Sequence[str]],
        every_s: float | None,
        own_every_s: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self._bases = {base: tuple(adapters) for base, adapters in bases.items()}
        self._silence = None if every_s is None else Silence(every_s, own_every_s)
        self._next = dict.fromkeys(self._bases, 0)
        self._finished: list[CanaryResult] = []
        self._owned = frozenset(self._bases)

    def own(self, bases: frozenset[str]) -> None:
        """From now on these are this agent's: of others nothing is handed out, and none of them is overdue."""
        if self._silence is not None:
            for base in self._owned ^ bases:
                self._silence.forget(base)
        self._owned = bases
        self._finished = [result for result in self._finished if base_of(result) in bases]

    def receive(self, result: object) -> None:
        """One result of the worker; those of other kinds are not for this feed."""
        if isinstance(result, CanaryResult) and base_of(result) in self._owned:
            self._finished.append(result)
        if self._silence is None:
            return
        match result:
            case Blocked():
                self._silence.block(self._owned, result)
            case BaseRound():
                self._silence.unblock([result.base])

    def poll(self, now: float) -> list[CanaryResult]:
        """All that was finished since the last call, in that order; never waits."""
        finished, self._finished = self._finished, []
        for result in finished:
            if isinstance(result, BaseRound):
                self._next[result.base] = result.number + 1
                if self._silence is not None:
                    self._silence.end(result.base, now)
        return [*finished, *self._overdue(now)]

    def _overdue(self, now: float) -> list[BaseRound]:
        if self._silence is None:
            return []
        reasons = {base: self._silence.reason(base, now) for base in self._bases if base in self._owned}
        return [
            blocked_round(base, self._bases[base], self._next[base], now, blocked.reason, blocked.why)
            for base, blocked in reasons.items()
            if blocked
        ]


def base_of(result: CanaryResult) -> str:
    """Which base it is about."""
    return result.round.base if isinstance(result, FaultReplay | FilesRound) else result.base


def blocked_round(base: str, adapters: Sequence[str], number: int, now: float, reason: Reason, why: str) -> BaseRound:
    """A round in which nothing was measured, so that silence shows as unmonitorable. why: in words"""
    rounds = tuple(Round(name, base, number, now, (), blocked=reason, detail=why) for name in adapters)
    return BaseRound(base, number, now, rounds)
