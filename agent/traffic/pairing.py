"""Requests and responses that come apart: kept until the other half is there, within bounded time and room."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from agent.records import LoggedHalf

LATE = "no other half came"
UNSURE = "several requests of one id wait: whose answer is whose is not told"


@dataclass(frozen=True, slots=True)
class _Waiting:
    """key: id, and who logged it; half: None where several of one key came, which nobody can tell apart."""

    key: tuple[str, str]
    half: LoggedHalf | None
    size: int
    since: float


class Joiner:
    """patience_s: how long a half waits; room, room_bytes: how many wait, and of what length together.

    What had to go without its other half is given out by ``dropped``, once, with the reason. A half that waits while
    its offset is committed is lost in a crash: its other half is then dropped in its time. Two requests of one id that
    wait together are both dropped, and whatever else comes of that id while they would have waited: a wrong pair would
    be evidence of what nobody wrote.
    """

    def __init__(self, patience_s: float = 300.0, room: int = 2_000, room_bytes: int = 64 * 2**20) -> None:
        self._patience_s, self._room, self._room_bytes = patience_s, room, room_bytes
        self._waiting: OrderedDict[tuple[str, str], _Waiting] = OrderedDict()
        self._bytes = 0
        self._dropped: list[tuple[LoggedHalf, str]] = []

    def add(self, half: LoggedHalf, size: int, now: float) -> LoggedHalf | None:
        """The other half, or None while there is none. size: bytes; now: seconds, of one clock."""
        key = half.request_id, half.logged_by
        before = self._waiting.get(key)
        if before is not None and before.half is None:
            self._dropped.append((half, UNSURE))
            return None
        if before is not None and before.half is not None:
            self._forget(before)
            if before.half.is_request != half.is_request:
                return before.half
            if not _is_same(before.half, half):
                self._dropped += [(before.half, UNSURE), (half, UNSURE)]
                self._wait(_Waiting(key, None, 0, now), now)
                return None
        # The same half again (a retry, or read twice) takes the place of the first.
        self._wait(_Waiting(key, half, size, now), now)
        return None

    def dropped(self, now: float) -> list[tuple[LoggedHalf, str]]:
        """Halves given up since the last call, and why."""
        self._make_room(now)
        dropped, self._dropped = self._dropped, []
        return dropped

    def _wait(self, one: _Waiting, now: float) -> None:
        self._waiting[one.key] = one
        self._bytes += one.size
        self._make_room(now)

    def _make_room(self, now: float) -> None:
        while self._waiting:
            oldest = next(iter(self._waiting.values()))
            late = now - oldest.since > self._patience_s
            if not late and len(self._waiting) <= self._room and self._bytes <= self._room_bytes:
                return
            self._forget(oldest)
            if oldest.half is not None:
                self._dropped.append((oldest.half, LATE))

    def _forget(self, one: _Waiting) -> None:
        self._bytes -= self._waiting.pop(one.key).size


def _is_same(one: LoggedHalf, other: LoggedHalf) -> bool:
    try:
        return one.body == other.body
    except RecursionError:  # nested as deeply as no request is
        return False
