"""Has a base given no round for too long? A thread that hangs cannot say so itself, and silence is never healthy."""

from __future__ import annotations

# Seconds beyond the interval without a finished round: a volume or a device hangs, and nobody else would say so.
STUCK_S = 300.0


class Silence:
    """When each base last gave a round of one kind; the first question about it counts as its first round.

    every_s: seconds between two such rounds
    """

    def __init__(self, every_s: float) -> None:
        self._limit_s = every_s + STUCK_S
        self._last: dict[str, float] = {}

    def end(self, base: str, now: float) -> None:
        """The base has given a round."""
        self._last[base] = now

    def reason(self, base: str, now: float) -> str:
        """Why nothing came, in words, once in each such stretch; "" while the base is not overdue."""
        # A clock that was set back must not lengthen the wait.
        self._last[base] = last = min(self._last.get(base, now), now)
        quiet = now - last
        if quiet <= self._limit_s:
            return ""
        self._last[base] = now
        return f"no round finished for {quiet:.0f} s: the models are too slow, or their files or device hang"
