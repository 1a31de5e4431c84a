"""The running evidence of many subjects: what a detector remembers, and all that it remembers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.bets import advance, fresh, level
from detectors.state_json import pack, unpack

Doubles = NDArray[np.float64]


@dataclass(slots=True)
class Streams:
    """log_m: stream -> (bets,) ln M; n: stream -> observations since its M last started at 0."""

    log_m: dict[str, Doubles] = field(default_factory=dict)
    n: dict[str, int] = field(default_factory=dict)

    def advance(self, stream: str, scores: NDArray[np.bool_] | Doubles, share: float, bets: int) -> None:
        """One tick of the clock of one stream. scores: (n,); with none of them nothing happens, not even the "+1"."""
        if not len(scores):
            return
        before = self.log_m.get(stream, fresh(1, bets)[0])
        self.log_m[stream] = advance(before[None, :], scores[None, :], share)[0]
        self.n[stream] = self.n.get(stream, 0) + len(scores)

    def level(self, stream: str) -> float:
        """ln of the mean of M, in nats; 0 while there is no observation ("not enough data yet" is a value)."""
        return float(level(self.log_m[stream][None, :])[0]) if self.n.get(stream) else 0.0

    def restart(self, stream: str) -> None:
        """M back to 0, as after an alarm. Lowering M keeps every guarantee."""
        self.log_m.pop(stream, None)
        self.n.pop(stream, None)

    def to_json(self) -> dict[str, Any]:
        return {stream: {"log_m": pack(self.log_m[stream]), "n": self.n[stream]} for stream in self.log_m}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Streams:
        log_m = {stream: unpack(row["log_m"]) for stream, row in stored.items()}
        return cls(log_m, {stream: int(row["n"]) for stream, row in stored.items()})
