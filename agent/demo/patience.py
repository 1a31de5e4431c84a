"""How long does the demo wait for something from the agent? As long as the agent runs, and at most PATIENCE_S."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import TypeVar

from agent.clock import Clock
from agent.demo.receiver import ReceivedIncident, Receiver

PATIENCE_S = 300.0
Item = TypeVar("Item")
Alive = Callable[[], bool]


def next_of(source: queue.SimpleQueue[Item], alive: Alive) -> Item:
    """The next item of the queue. Raises TimeoutError when none comes in time, or the agent has ended."""
    clock = Clock()
    deadline = clock.steady() + PATIENCE_S
    while clock.steady() < deadline:
        try:
            return source.get(timeout=0.2)
        except queue.Empty:
            if not alive():
                break
    raise TimeoutError("nothing came from the agent in time")


def incident_of(receiver: Receiver, matches: Callable[[ReceivedIncident], bool], alive: Alive) -> ReceivedIncident:
    """The first matching incident at the receiver, once there is one. Raises TimeoutError when none comes in time."""
    clock = Clock()
    deadline = clock.steady() + PATIENCE_S
    while clock.steady() < deadline and alive():
        for incident in receiver.incidents:
            if matches(incident):
                return incident
        clock.sleep(0.05)
    raise TimeoutError("the event did not reach the receiver in time")
