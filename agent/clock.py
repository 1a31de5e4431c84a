"""The one place that reads the time and waits for it to pass; tests set it by hand."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, date, datetime


class Clock:
    """Wall time, and a steady one for deadlines; both in seconds."""

    def now(self) -> float:
        """Since the epoch; may be set back."""
        return time.time()

    def today(self) -> date:
        """Of the wall time, in UTC."""
        return datetime.fromtimestamp(self.now(), UTC).date()

    def steady(self) -> float:
        """Since some moment that does not matter; never goes back."""
        return time.monotonic()

    def cpu(self) -> float:
        """CPU seconds that this process has used, all its threads together, since it began."""
        return time.process_time()

    def sleep(self, seconds: float) -> None:
        """Block this thread for so long, by the steady time."""
        time.sleep(seconds)


@dataclass
class HandClock(Clock):
    """A clock that stands still until it is moved: the in-memory implementation that ships with the product.

    at: the steady time; ahead: seconds by which the wall time differs from it; used: CPU seconds
    """

    at: float = 1_700_000_000.0
    ahead: float = 0.0
    used: float = 0.0

    def now(self) -> float:
        return self.at + self.ahead

    def steady(self) -> float:
        return self.at

    def cpu(self) -> float:
        return self.used

    def sleep(self, seconds: float) -> None:
        """Takes no time: the clock is moved instead."""
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        self.at += seconds

    def jump(self, seconds: float) -> None:
        """The wall time is set, by hand or by a time server; the steady one is not."""
        self.ahead += seconds
