"""What has to be on disk, written in order by one thread, so that the loop waits for no disk.

The order is what a kill may not change: a page lies in its outbox before the state says that it was reported, and
before a row tells the fleet so. Until it is opened, and once it is closed, what is put is written at once.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import NamedTuple

import structlog

# A write that takes longer is told.
LATE_S = 30.0

log = structlog.get_logger(__name__)

Write = Callable[[], object]
"""Tells by itself what the disk refuses, and raises nothing for that."""


class _Waiting(NamedTuple):
    """number: of all that was put; key: see put_latest, the write itself of put_once"""

    number: int
    key: Hashable
    write: Write


class Disk:
    """Any thread may put; ``await_written`` is for any but the loop's."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[_Waiting] = deque()
        self._under_way: _Waiting | None = None
        self._begun_at: float | None = None  # steady, of the write under way
        self._n_put = 0
        self._is_open = self._closing = False
        self._thread = threading.Thread(target=self._work, name="disk", daemon=True)

    def open(self) -> None:
        self._is_open = True
        self._thread.start()

    def put_once(self, write: Write) -> None:
        """At its place in the order, unless the same one waits already: it then does what there is to do by then."""
        with self._changed:
            is_open = self._is_open
            if is_open and all(waiting.key != write for waiting in self._waiting):
                self._put(write, write)
        if not is_open:
            write()

    def put_latest(self, key: Hashable, write: Write) -> None:
        """In place of what was put under this key and has not begun, behind everything that was put since."""
        with self._changed:
            is_open = self._is_open
            if is_open:
                self._waiting = deque(waiting for waiting in self._waiting if waiting.key != key)
                self._put(key, write)
        if not is_open:
            write()

    def await_written(self, timeout_s: float) -> bool:
        """Until all that was put so far is written, or refused; False where time ran out first."""
        with self._changed:
            upto = self._n_put
            return self._changed.wait_for(lambda: self._oldest > upto, timeout_s)

    @property
    def late_s(self) -> float:
        """Seconds since the write under way began, 0.0 while it is not late."""
        begun_at = self._begun_at
        taken = 0.0 if begun_at is None else time.monotonic() - begun_at
        return taken if taken >= LATE_S else 0.0

    def close(self, budget_s: float) -> None:
        """Write what waits, within the budget."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(budget_s)

    @property
    def _oldest(self) -> float:
        """The number of the first that is not written."""
        if self._under_way is not None:
            return self._under_way.number
        return self._waiting[0].number if self._waiting else float("inf")

    def _put(self, key: Hashable, write: Write) -> None:
        self._n_put += 1
        self._waiting.append(_Waiting(self._n_put, key, write))
        self._changed.notify_all()

    def _work(self) -> None:
        while (following := self._next()) is not None:
            self._begun_at = time.monotonic()
            try:
                following.write()
            except Exception as error:  # of any kind: what comes behind it has to be written all the same
                log.error("write_failed", error=type(error).__name__, exc_info=error)
            self._begun_at = None

    def _next(self) -> _Waiting | None:
        """What is written next; None once nothing more comes."""
        with self._changed:
            self._under_way = None
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._waiting or self._closing)
            if not self._waiting:
                self._is_open = False
                return None
            self._under_way = self._waiting.popleft()
            return self._under_way
