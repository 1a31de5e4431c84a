"""Sampled interactions that wait for a model: each adapter has room of its own and its turn in every batch."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Iterable, Mapping

from probes.scoring.interaction import Interaction


class Backlog:
    """Filled by the loop, emptied by the replay thread.

    adapters: whose interactions are taken; room: of each adapter

    What finds no room is shed by its order of arrival and counted, so a busy adapter sheds its own and no other's.
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

    def add(self, seen: Interaction) -> None:
        """At the end of its adapter's queue. Raises KeyError for an adapter that is not among ours."""
        with self._lock:
            if len(self._waiting[seen.adapter]) >= self._room:
                self._shed[seen.adapter] += 1
            else:
                self._waiting[seen.adapter].append(seen)

    def take(self, most: int) -> list[Interaction]:
        """The next ones, adapters in turns; the turn is kept, so that more adapters than ``most`` all get theirs."""
        taken: list[Interaction] = []
        with self._lock:
            idle = 0
            while len(taken) < most and idle < len(self._turns):
                mine = self._waiting[self._turns[0]]
                self._turns.rotate(-1)
                idle = 0 if mine else idle + 1
                if mine:
                    taken.append(mine.popleft())
        return taken

    def give_back(self, untouched: Iterable[Interaction]) -> None:
        """What was taken and not looked at, in the order taken: it comes first again, and is never shed."""
        with self._lock:
            for seen in reversed(list(untouched)):
                self._waiting[seen.adapter].appendleft(seen)
