"""Requests and responses that come apart: kept until the other half is there, within bounded time and room."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from agent.records import Half


@dataclass(frozen=True, slots=True)
class _Waiting:
    half: Half
    size: int
    since: float


class Joiner:
    """patience_s: how long a half waits; room, room_bytes: how many wait, and of what length together.

    What had to go without its other half is given out by ``dropped``, once. A half that waits while its offset is
    committed is lost in a crash: its other half is then dropped in its time.
    """

    def __init__(self, patience_s: float = 300.0, room: int = 2_000, room_bytes: int = 64 * 2**20) -> None:
        self._patience_s, self._room, self._room_bytes = patience_s, room, room_bytes
        self._waiting: OrderedDict[str, _Waiting] = OrderedDict()
        self._bytes = 0
        self._dropped: list[Half] = []

    def add(self, half: Half, size: int, now: float) -> Half | None:
        """The other half, or None while there is none. size: bytes; now: seconds, of one clock."""
        other = self._waiting.get(half.request_id)
        if other is not None:
            self._forget(half.request_id)
            if other.half.is_request != half.is_request:
                return other.half
        # The same half again (a retry, or read twice) takes the place of the first.
        self._waiting[half.request_id] = _Waiting(half, size, now)
        self._bytes += size
        self._make_room(now)
        return None

    def dropped(self, now: float) -> list[Half]:
        """Halves given up since the last call."""
        self._make_room(now)
        dropped, self._dropped = self._dropped, []
        return dropped

    def _make_room(self, now: float) -> None:
        while self._waiting:
            oldest = next(iter(self._waiting.values()))
            late = now - oldest.since > self._patience_s
            if not late and len(self._waiting) <= self._room and self._bytes <= self._room_bytes:
                return
            self._forget(oldest.half.request_id)
            self._dropped.append(oldest.half)

    def _forget(self, request_id: str) -> None:
        self._bytes -= self._waiting.pop(request_id).size
