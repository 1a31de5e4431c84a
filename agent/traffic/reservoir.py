"""Which requests are looked at more closely than being counted: a share by hash, and at most so many a minute.

Every choice here rests on a rank: a number that is uniform over requests and tells nothing of their content. What is
kept is therefore an unbiased sample of what is served, whatever is shed.
"""

from __future__ import annotations

import hashlib
import heapq
import math
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from agent.traffic.redaction import Rule

Ranks = NDArray[np.uint64]
WHOLE = 2**64


class Config(BaseModel):
    """rate: share of requests kept, 0..1; per_adapter_per_minute: at most so many; salt: another one, another choice.

    redact: what is replaced in prompts and outputs before they leave the process, in this order
    Every agent of a fleet that shares a salt keeps the same requests, also when they are read a second time.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rate: float = Field(default=0.01, ge=0.0, le=1.0)
    per_adapter_per_minute: int = Field(default=20, ge=0)
    salt: str = "gapwatch"
    redact: tuple[Rule, ...] = ()


class RankHash:
    """Ranks of requests: integers uniform over [0, 2**64), the same whenever and wherever a request is read.

    A request without an id is known by its topic, partition and offset.
    """

    def __init__(self, salt: str) -> None:
        self._seed = hashlib.blake2b(salt.encode("utf-8", "surrogatepass"), digest_size=8).digest()

    def of_ids(self, ids: Iterable[bytes], minutes: NDArray[np.uint64] | None = None) -> Ranks:
        """ids: request ids; minutes: of each, where one id is to be chosen anew in every minute.

        A checksum, then a mix that scatters neighbours: a tenth of a real hash's time.
        """
        sums = np.fromiter(map(zlib.crc32, ids), np.uint64)
        if minutes is not None:
            sums ^= minutes << np.uint64(32)
        return _mixed(sums ^ np.uint64(int.from_bytes(self._seed, "big")))

    def of_offsets(self, topic: str, partition: int, offsets: NDArray[np.int64]) -> Ranks:
        place = hashlib.blake2b(f"{topic}:{partition}".encode(), digest_size=8, key=self._seed).digest()
        return _mixed(offsets.astype(np.uint64) ^ np.uint64(int.from_bytes(place, "big")))


def _mixed(keys: Ranks) -> Ranks:
    """Two rounds of SplitMix64's finaliser (Steele, Lea & Flood 2014): every bit of the key decides on every bit.

    Departs: two rounds, because consecutive offsets under one differ too little in the first.
    """
    mixed = keys
    with np.errstate(over="ignore"):
        for _ in range(2):
            mixed = mixed + np.uint64(0x9E3779B97F4A7C15)
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            mixed = mixed ^ (mixed >> np.uint64(31))
    return mixed


def below(ranks: Ranks, rate: float) -> NDArray[np.bool_]:
    """Which of them are in a sample of this rate; a greater rate keeps what a smaller one kept."""
    bound = int(rate * WHOLE)
    return np.ones(len(ranks), bool) if bound >= WHOLE else ranks < np.uint64(bound)


class Reservoirs:
    """For each adapter, of the requests that the rate let through: at most ``cap`` in a minute, the rest in ``shed``.

    Each adapter has room of its own, so that a busy one takes nothing from a quiet one. An adapter that had more than
    its room in the minute before is thinned by rank to about its room, so that its sample comes from the whole minute
    and not from its first second. Where a poll still brings more than there is room, the lowest ranks stay.
    """

    def __init__(self, cap: int, rate: float = 1.0) -> None:
        self._cap, self._rate = cap, rate
        self._minute = -math.inf
        self._offered: Counter[str] = Counter()
        self._before: Counter[str] = Counter()
        self._taken: Counter[str] = Counter()
        self.shed: Counter[str] = Counter()

    def choose(self, offered: Sequence[tuple[str, int]], now: float) -> list[int]:
        """Which of these (adapter, rank) are taken, as ascending positions.

        now: seconds since the epoch; minutes are those of the clock, and one that ran back opens no new one.
        """
        self._turn(now // 60)
        by_adapter: dict[str, list[tuple[int, int]]] = {}
        for position, (adapter, rank) in enumerate(offered):
            by_adapter.setdefault(adapter, []).append((rank, position))
        taken = [position for adapter, ranked in by_adapter.items() for position in self._take(adapter, ranked)]
        return sorted(taken)

    def _take(self, adapter: str, ranked: list[tuple[int, int]]) -> list[int]:
        self._offered[adapter] += len(ranked)
        bound = self._rate * WHOLE * min(1.0, self._cap / max(1, self._before[adapter]))
        lowest = heapq.nsmallest(self._cap - self._taken[adapter], (one for one in ranked if one[0] < bound))
        self._taken[adapter] += len(lowest)
        if len(lowest) < len(ranked):
            self.shed[adapter] += len(ranked) - len(lowest)
        return [position for _, position in lowest]

    def _turn(self, minute: float) -> None:
        if minute > self._minute:
            self._before = self._offered if minute == self._minute + 1 else Counter()
            self._minute, self._taken, self._offered = minute, Counter(), Counter()
