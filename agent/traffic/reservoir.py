"""Which requests are sampled: a share by hash, and at most so many an adapter and minute.

Every choice is made by a rank: a number that is uniform over requests and independent of their content. So what is kept
is an unbiased sample of what is served, however much is shed. Choosing by anything else breaks that. Changing the hash
or the salt chooses other requests: agents of two versions then keep different samples.
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
WHOLE = 2**64  # ranks lie below


class Config(BaseModel):
    """rate: share of requests kept, 0..1; per_adapter_per_minute: at most so many; salt: another salt samples other
    requests.

    redact: what is replaced in prompts and outputs before they leave the process, in this order
    Every agent of a fleet that shares a salt keeps the same requests, also when they are re-delivered.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rate: float = Field(default=0.01, ge=0.0, le=1.0)
    per_adapter_per_minute: int = Field(default=20, ge=0)
    salt: str = "gapwatch"
    redact: tuple[Rule, ...] = ()


class RankHash:
    """Request to rank: an integer uniform over [0, 2**64), the same whenever and wherever the request is read.

    A request without an id is identified by its topic, partition and offset.
    """

    def __init__(self, salt: str) -> None:
        self._seed = hashlib.blake2b(salt.encode("utf-8", "surrogatepass"), digest_size=8).digest()

    def of_ids(self, ids: Iterable[bytes], minutes: NDArray[np.uint64] | None = None) -> Ranks:
        """ids: request ids; minutes: of each, where an id that is used again is to be ranked independently each minute.

        A checksum, then a mix that scatters neighbours: a tenth of the time of a cryptographic hash.
        """
        sums = np.fromiter(map(zlib.crc32, ids), np.uint64)
        if minutes is not None:
            sums ^= minutes << np.uint64(32)
        return _mixed(sums ^ np.uint64(int.from_bytes(self._seed, "big")))

    def of_offsets(self, topic: str, partition: int, offsets: NDArray[np.int64]) -> Ranks:
        key = hashlib.blake2b(f"{topic}:{partition}".encode(), digest_size=8, key=self._seed).digest()
        return _mixed(offsets.astype(np.uint64) ^ np.uint64(int.from_bytes(key, "big")))


def _mixed(keys: Ranks) -> Ranks:
    """Two rounds of SplitMix64's finaliser (Steele, Lea & Flood 2014): each bit of the key affects each of the rank.

    Departs from the source: two rounds, because after one round the ranks of consecutive offsets differ too little.
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
    """Which of them are in a sample of this rate. A higher rate also contains what a lower one does."""
    bound = int(rate * WHOLE)
    return np.ones(len(ranks), bool) if bound >= WHOLE else ranks < np.uint64(bound)


class Reservoirs:
    """Of each adapter's sampled requests, at most ``cap`` a minute are kept; the others are counted in ``shed``.

    Each adapter has room of its own, so that a busy one takes nothing from a quiet one. An adapter that had more than
    ``cap`` in the previous minute is thinned by rank to about ``cap``, so that its sample comes from the whole minute
    and not from its first second. Where a poll still brings more than there is room for, the lowest ranks are kept.
    """

    def __init__(self, cap: int, rate: float = 1.0) -> None:
        self._cap, self._rate = cap, rate
        self._minute = -math.inf
        self._offered: Counter[str] = Counter()
        self._offered_before: Counter[str] = Counter()
        self._taken: Counter[str] = Counter()
        self.shed: Counter[str] = Counter()

    def choose(self, offered: Sequence[tuple[str, int]], now: float) -> list[int]:
        """Which of these (adapter, rank) are kept, as ascending positions.

        now: seconds since the epoch, in calendar minutes. A clock that is set back by a minute or less starts no new
        one; one that is set back by more does, or there would be no room until it has caught up.
        """
        self._start_minute(now // 60)
        by_adapter: dict[str, list[tuple[int, int]]] = {}
        for position, (adapter, rank) in enumerate(offered):
            by_adapter.setdefault(adapter, []).append((rank, position))
        taken = [position for adapter, ranked in by_adapter.items() for position in self._take(adapter, ranked)]
        return sorted(taken)

    def _take(self, adapter: str, ranked: list[tuple[int, int]]) -> list[int]:
        self._offered[adapter] += len(ranked)
        bound = self._rate * WHOLE * min(1.0, self._cap / max(1, self._offered_before[adapter]))
        below_bound = (entry for entry in ranked if entry[0] < bound)
        lowest = heapq.nsmallest(self._cap - self._taken[adapter], below_bound)
        self._taken[adapter] += len(lowest)
        if len(lowest) < len(ranked):
            self.shed[adapter] += len(ranked) - len(lowest)
        return [position for _, position in lowest]

    def _start_minute(self, minute: float) -> None:
        if minute > self._minute or minute < self._minute - 1:
            self._offered_before = self._offered if minute == self._minute + 1 else Counter()
            self._minute, self._taken, self._offered = minute, Counter(), Counter()
