"""Sampled interactions that wait to be scored: each adapter has a queue of bounded length, and its turn in every batch.

Shared by two threads: the loop adds, the worker takes. What comes to a full queue is shed: dropped and counted, by
order of arrival and never by content, which would bias the evidence.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence

from probes.scoring.interaction import Interaction


def with_base_requests(bases: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Base -> its adapters, and itself for the requests that name it, unless an adapter has that name."""
    adapters = {name for own in bases.values() for name in own}
    return {base: (*own, *({base} - adapters)) for base, own in bases.items()}


class Backlog:
    """adapters: whose interactions are taken; room: interactions of each adapter that may wait

    An interaction that finds no room is shed by its order of arrival and counted, so a busy adapter sheds its own and
    no other's.
    """

    def __init__(self, adapters: Iterable[str], room: int) -> None:
        self._waiting: dict[str, deque[Interaction]] = {name: deque() for name in adapters}
        self._turns = deque(self._waiting)
        self._room, self._lock = room, threading.Lock()
        self._shed = Counter(dict.fromkeys(self._waiting, 0))

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    @property
    def shed(self) -> Mapping[str, int]:
        """Of every adapter, how many found no room."""
        with self._lock:
            return dict(self._shed)

    def add(self, interaction: Interaction) -> None:
        """At the end of its adapter's queue. Raises KeyError for an adapter that was not named at the start."""
        with self._lock:
            if len(self._waiting[interaction.adapter]) >= self._room:
                self._shed[interaction.adapter] += 1
            else:
                self._waiting[interaction.adapter].append(interaction)

    def take(self, most: int) -> list[Interaction]:
        """The next ones, adapters in turns. Whose turn it is next is remembered, so that more adapters than ``most``
        all get theirs."""
        taken: list[Interaction] = []
        with self._lock:
            empty_in_a_row = 0
            while len(taken) < most and empty_in_a_row < len(self._turns):
                waiting = self._waiting[self._turns[0]]
                self._turns.rotate(-1)
                empty_in_a_row = 0 if waiting else empty_in_a_row + 1
                if waiting:
                    taken.append(waiting.popleft())
        return taken

    def clear(self) -> list[Interaction]:
        """All that wait, which wait no more."""
        with self._lock:
            cleared = [interaction for waiting in self._waiting.values() for interaction in waiting]
            for waiting in self._waiting.values():
                waiting.clear()
        return cleared

    def give_back(self, untouched: Iterable[Interaction]) -> None:
        """Interactions that were taken and not looked at, in the order taken: they come first again, and are never
        shed."""
        with self._lock:
            for interaction in reversed(list(untouched)):
                self._waiting[interaction.adapter].appendleft(interaction)
