"""What was finished about the models, in the order in which it was made, until somebody takes it."""

from __future__ import annotations

import queue
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Results(Generic[Result]):
    """One thread puts, another delivers. receivers: get each result (``CanaryFeed.receive`` ...)

    One queue for all kinds: a golden record reaches its feed before the first score against it reaches another.
    """

    def __init__(self, receivers: Sequence[Callable[[Result], None]]) -> None:
        self._receivers = tuple(receivers)
        self._waiting: queue.SimpleQueue[Result] = queue.SimpleQueue()

    def put(self, result: Result) -> None:
        self._waiting.put(result)

    def deliver(self) -> None:
        """Hand everything that was put since the last call to the receivers; never waits."""
        while not self._waiting.empty():
            result = self._waiting.get()
            for receive in self._receivers:
                receive(result)


def working(shed: Mapping[str, int]) -> str:
    """In words, that the models work. shed: of every adapter, how many sampled responses they had no time for"""
    names = ", ".join(f"{name} {n}" for name, n in shed.items() if n)
    return f"working; sampled responses shed for lack of time: {names}" if names else "working"
