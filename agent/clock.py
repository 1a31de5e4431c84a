"""The one place that reads the time; tests set it by hand."""

from __future__ import annotations

import time
from dataclasses import dataclass


class Clock:
    """Wall time in seconds since the epoch."""

    def now(self) -> float:
        return time.time()


@dataclass
class HandClock(Clock):
    """A clock that stands still until it is moved: the twin that ships with the product."""

    at: float = 1_700_000_000.0

    def now(self) -> float:
        return self.at

    def advance(self, seconds: float) -> None:
        self.at += seconds
