"""Has a base given no round for too long? A process that hangs or has ended cannot say so itself, and silence is never
healthy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from detectors.records import Reason

# Seconds beyond the interval without a finished round: a volume or a device hangs, and nobody else would say so.
STUCK_S = 300.0
# Between two questions, which the loop asks several times a second: what is more was a clock that was set, or a machine
# that stood still, and says nothing of the models.
LEAP_S = 3600.0


@dataclass(frozen=True, slots=True)
class Blocked:
    """No model answers, and why. why: in words"""

    reason: Reason
    why: str


class Silence:
    """When each base last gave a round of one kind; the first question about it counts as its first round, but where it
    is blocked by then: that is said at once.

    every_s: seconds between two such rounds; own_every_s: base -> seconds of those that have others
    """

    def __init__(self, every_s: float, own_every_s: Mapping[str, float] = MappingProxyType({})) -> None:
        self._every_s, self._own_every_s = every_s, own_every_s
        self._last: dict[str, float] = {}
        self._asked: dict[str, float] = {}
        self._blocked: dict[str, Blocked] = {}

    def end(self, base: str, now: float) -> None:
        """The base has given a round."""
        self._last[base] = now

    def block(self, bases: Iterable[str], blocked: Blocked) -> None:
        """From now on these bases are overdue at the interval of their rounds, for that reason."""
        self._blocked |= dict.fromkeys(bases, blocked)

    def unblock(self, bases: Iterable[str]) -> None:
        """They are answered for again."""
        for base in bases:
            self._blocked.pop(base, None)

    def forget(self, base: str) -> None:
        """It comes or goes: how long it was silent before says nothing."""
        self._last.pop(base, None)
        self._asked.pop(base, None)
        self._blocked.pop(base, None)

    def reason(self, base: str, now: float) -> Blocked | None:
        """Why nothing came, once in each such stretch; None while the base is not overdue."""
        leap, has_come = now - self._asked.get(base, now), base not in self._last
        self._asked[base] = now
        began = self._last.get(base, now) + (leap if leap > LEAP_S else 0.0)
        # A clock that was set back must not lengthen the wait.
        self._last[base] = last = min(began, now)
        quiet, blocked = now - last, self._blocked.get(base)
        every_s = self._own_every_s.get(base, self._every_s)
        if has_come and blocked is not None:
            return blocked
        if quiet < every_s or (blocked is None and quiet <= every_s + STUCK_S):
            return None
        self._last[base] = now
        hang = f"no round finished for {quiet:.0f} s: the models are too slow, or their files or device hang"
        return blocked or Blocked(Reason.NOT_REPLAYED_YET, hang)
