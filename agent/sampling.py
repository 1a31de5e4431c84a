"""Which requests are looked at more closely than being counted: a share by hash, and at most so many a minute."""

from __future__ import annotations

import hashlib
import math
from collections import Counter

from pydantic import BaseModel, ConfigDict, Field


class Config(BaseModel):
    """rate: share of requests kept, 0..1; per_adapter_per_minute: at most so many; salt: another one, another choice.

    Every agent of a fleet that shares a salt keeps the same requests, also when they are read a second time.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rate: float = Field(default=0.01, ge=0.0, le=1.0)
    per_adapter_per_minute: int = Field(default=20, ge=0)
    salt: str = "gapwatch"


def keep(key: str, rate: float, salt: str) -> bool:
    """Is this request in the sample?

    key: request id; rate: share to keep, 0..1
    Depends on key and salt alone: never on content, which would bias the evidence, and never on a clock, so that a
    request read twice is judged alike. Over distinct keys the decisions are uniform with mean ``rate``.
    """
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8, salt=_salt(salt)).digest()
    return int.from_bytes(digest, "big") < rate * 2**64


def _salt(text: str) -> bytes:
    """blake2b takes 16 bytes of salt; longer ones are hashed down to that."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


class PerMinute:
    """May one more be taken for this adapter in this minute? First come, first taken; the rest is counted in ``shed``.

    Without it a busy adapter would take the whole scoring budget from a quiet one.
    """

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._minute = -math.inf
        self._taken: Counter[str] = Counter()
        self.shed: Counter[str] = Counter()

    def admit(self, adapter: str, now: float) -> bool:
        """now: seconds since the epoch; minutes are those of the clock, and one that ran back opens no new one."""
        minute = now // 60
        if minute > self._minute:
            self._minute, self._taken = minute, Counter()
        if self._taken[adapter] >= self._cap:
            self.shed[adapter] += 1
            return False
        self._taken[adapter] += 1
        return True
