"""Waiting for what the agent hands over: as long as it lives, and not for ever."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from typing import TypeVar

from agent.clock import Clock
from agent.demo.receiver import ReceivedIncident, Receiver

PATIENCE_S = 120.0
Item = TypeVar("Item")
Alive = Callable[[], bool]


def next_of(source: queue.SimpleQueue[Item], alive: Alive) -> Item:
    """The next one that comes. Raises TimeoutError when the agent falls silent."""
    clock = Clock()
    deadline = clock.steady() + PATIENCE_S
    while clock.steady() < deadline:
        try:
            return source.get(timeout=0.2)
        except queue.Empty:
            if not alive():
                break
    raise TimeoutError("the agent fell silent")


def incident_of(receiver: Receiver, is_it: Callable[[ReceivedIncident], bool], alive: Alive) -> ReceivedIncident:
    """The incident at the receiver once it is as asked. Raises TimeoutError when that does not happen."""
    clock = Clock()
    deadline = clock.steady() + PATIENCE_S
    while clock.steady() < deadline and alive():
        for incident in receiver.incidents:
            if is_it(incident):
                return incident
        time.sleep(0.05)
    raise TimeoutError("the event did not arrive at the receiver")
