"""Requests and responses that are separate records: each half waits for the other, within bounded time and memory.

Pairs by format, id and logging component; which adapter a pair belongs to, and how both halves become one interaction,
is the format's business (PairingFormat in decoder.py).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from agent.records import LoggedHalf

LATE = "the other half did not arrive while this one could wait"
AMBIGUOUS = "several requests with this id are waiting: which response belongs to which is unknown"
PairKey = tuple[str, str, str]
"""(format, request id, component that logged it)"""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """half: None where several requests of this key came, so that no response can be assigned. size: bytes"""

    key: PairKey
    half: LoggedHalf | None
    size: int
    since: float


class Joiner:
    """patience_s: how long a half waits; room, room_bytes: how many wait, and their total size.

    A half that is given up is returned by ``dropped``, once, with the reason. A half that waits while its offset is
    committed is lost in a crash: its other half is then dropped when its time is up. Two different requests of one key
    that wait at the same time are both dropped, and so is whatever arrives for that key while they would have waited: a
    wrong pair would be evidence of an answer that was never given.
    """

    def __init__(self, patience_s: float = 300.0, room: int = 2_000, room_bytes: int = 64 * 2**20) -> None:
        self._patience_s, self._room, self._room_bytes = patience_s, room, room_bytes
        self._waiting: OrderedDict[PairKey, _Waiting] = OrderedDict()
        self._bytes = 0
        self._dropped: list[tuple[LoggedHalf, str]] = []

    def add(self, half: LoggedHalf, size: int, now: float) -> LoggedHalf | None:
        """The other half, or None while it has not arrived. size: bytes; now: seconds, always of the same clock."""
        key = half.format, half.request_id, half.logged_by
        waiting = self._waiting.get(key)
        if waiting is not None and waiting.half is None:
            self._dropped.append((half, AMBIGUOUS))
            return None
        if waiting is not None and waiting.half is not None:
            self._remove(waiting)
            if waiting.half.is_request != half.is_request:
                return waiting.half
            if not _is_same(waiting.half, half):
                self._dropped += [(waiting.half, AMBIGUOUS), (half, AMBIGUOUS)]
                self._wait(_Waiting(key, None, 0, now), now)
                return None
        # The same half once more (sent again, or re-delivered) replaces the first.
        self._wait(_Waiting(key, half, size, now), now)
        return None

    def dropped(self, now: float) -> list[tuple[LoggedHalf, str]]:
        """Halves given up since the last call, and why."""
        self._make_room(now)
        dropped, self._dropped = self._dropped, []
        return dropped

    def _wait(self, entry: _Waiting, now: float) -> None:
        self._waiting[entry.key] = entry
        self._bytes += entry.size
        self._make_room(now)

    def _make_room(self, now: float) -> None:
        while self._waiting:
            oldest = next(iter(self._waiting.values()))
            late = abs(now - oldest.since) > self._patience_s  # also where the clock was set back by so much
            if not late and len(self._waiting) <= self._room and self._bytes <= self._room_bytes:
                return
            self._remove(oldest)
            if oldest.half is not None:
                self._dropped.append((oldest.half, LATE))

    def _remove(self, entry: _Waiting) -> None:
        self._bytes -= self._waiting.pop(entry.key).size


def _is_same(half: LoggedHalf, other: LoggedHalf) -> bool:
    try:
        return half.body == other.body
    except RecursionError:  # nested deeper than any real request
        return False
