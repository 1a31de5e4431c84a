"""The running evidence of many subjects: all that a canary detector remembers, one row a stream, moved at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from detectors.errors import ShapeMismatch
from detectors.evidence.array_json import pack, unpack
from detectors.evidence.e_detector import count_factors, nats, step, step_twin, value_factors
from detectors.records import BaseRound, Evidence, SubjectKind

Doubles = NDArray[np.float64]
Scores = NDArray[np.bool_] | Doubles

# Rows moved at a time: what one round touches of them, some 600 KB, stays in a core's own cache.
CHUNK = 2048


@dataclass(frozen=True, slots=True)
class Source:
    """Who speaks: which detector, about what kind of subject, and may it page."""

    about: SubjectKind
    detector: str
    pages: bool


@dataclass(frozen=True, slots=True)
class OnsetEstimate:
    """When the evidence says that its cause began, seconds since the epoch.

    at: the round in which the leading bet's CUSUM twin last began anew
    after, by: from the measured round before the earliest such beginning to the latest one, over the bets whose twin
    stands above 1; after is None where there was no round before

    No coverage is promised. Measured at the alarm, 16 draws a round, 15 to 100 % of them beyond: 96 to 100 % after a
    past at the very edge of the null, some 20 rounds wide (small bets forget slowly); one round wide after a past
    without benign outliers.
    """

    at: float
    after: float | None
    by: float


@dataclass(slots=True)
class ProcessArrays:
    """What is remembered of S streams and G bets; 240 bytes a stream at 8 bets.

    m, w: (S, G) M and its CUSUM twin, no logarithms; since: (S, G) ``at`` of the round in which the twin last began
    anew, nan before the first; gap: (S, G) seconds back to the measured round before that one, inf where there was none
    n: (S,) scores since M last started at 0; seen_at: (S,) ``at`` of the last measured round, -inf before the first
    """

    m: Doubles
    w: Doubles
    since: Doubles
    gap: NDArray[np.float32]
    n: NDArray[np.int64]
    seen_at: Doubles

    @classmethod
    def fresh(cls, streams: int, bets: int) -> ProcessArrays:
        """Streams that have seen nothing."""
        shape = (streams, bets)
        return cls(
            m=np.zeros(shape),
            w=np.zeros(shape),
            since=np.full(shape, np.nan),
            gap=np.full(shape, np.inf, dtype=np.float32),
            n=np.zeros(streams, dtype=np.int64),
            seen_at=np.full(streams, -np.inf),
        )

    @property
    def nbytes(self) -> int:
        return sum(getattr(self, name).nbytes for name in self.__slots__)

    def part(self, rows: slice | NDArray[np.int64]) -> ProcessArrays:
        """Some of the streams: a view of them for a slice, a copy for an array."""
        return ProcessArrays(**{name: getattr(self, name)[rows] for name in self.__slots__})

    def put(self, rows: NDArray[np.int64], part: ProcessArrays) -> None:
        for name in self.__slots__:
            getattr(self, name)[rows] = getattr(part, name)

    def joined(self, more: ProcessArrays) -> ProcessArrays:
        return ProcessArrays(
            **{name: np.concatenate([getattr(self, name), getattr(more, name)]) for name in self.__slots__}
        )

    def move(self, factors: Doubles, draws: NDArray[np.int64] | int, at: float) -> None:
        """One measured round of all these streams, in place. factors: (S, G), e_detector.py."""
        step(self.m, factors)
        began = step_twin(self.w, factors)
        np.copyto(self.since, at, where=began)
        np.copyto(self.gap, (at - self.seen_at).astype(np.float32)[:, None], where=began)
        self.seen_at[:] = at
        self.n += draws

    def forget(self, row: int) -> None:
        """M and its twin back to 0; when the stream was last measured stays known."""
        seen_at = self.seen_at[row]
        self.put(np.array([row]), ProcessArrays.fresh(1, self.m.shape[1]))
        self.seen_at[row] = seen_at


def move_counts(rows: ProcessArrays, ones: NDArray[np.int64], draws: int, share: float, at: float) -> None:
    """One round of many streams with as many draws each, in place. ones: (S,) how many of them were beyond."""
    for start in range(0, len(ones), CHUNK):
        chosen = slice(start, start + CHUNK)
        rows.part(chosen).move(count_factors(ones[chosen], draws, share, rows.m.shape[1]), draws, at)


@dataclass(slots=True)
class Streams:
    """rows: what is remembered; index: stream -> its row."""

    layout: ClassVar[int] = 1

    rows: ProcessArrays = field(default_factory=lambda: ProcessArrays.fresh(0, 0))
    index: dict[str, int] = field(default_factory=dict)

    def advance(self, heard: Mapping[str, Scores], share: float, bets: int, at: float) -> None:
        """One tick of the clock of each stream heard, in one array update.

        heard: stream -> (n,) its scores of this round, bool or in [0, 1]; one without any stays as it is, without
        the "+1"
        """
        measured = {name: scores for name, scores in heard.items() if len(scores)}
        if not measured:
            return
        where = self._where(list(measured), bets)
        draws = np.fromiter(map(len, measured.values()), dtype=np.int64, count=len(measured))
        part = self.rows.part(where)
        part.move(_factors(list(measured.values()), draws, share, bets), draws, at)
        self.rows.put(where, part)

    def level(self, stream: str) -> float:
        """ln of the mean of M, in nats; 0 while there is no observation ("not enough data yet" is a value)."""
        return self.levels([stream])[stream]

    def levels(self, streams: Sequence[str]) -> dict[str, float]:
        """Stream -> ``level``, of many at once."""
        seen = [stream for stream in streams if self.n(stream)]
        logs = nats(self.rows.m[[self.index[stream] for stream in seen]]) if seen else np.zeros(0)
        return dict.fromkeys(streams, 0.0) | dict(zip(seen, logs.tolist(), strict=True))

    def n(self, stream: str) -> int:
        """Scores since the stream's M last started at 0."""
        return int(self.rows.n[self.index[stream]]) if stream in self.index else 0

    def evidence(self, source: Source, subjects: Sequence[str], record: BaseRound) -> tuple[Evidence, ...]:
        """The level of each subject after a round, in their order; a subject's stream has its name."""
        levels = self.levels(subjects)
        return tuple(
            Evidence(
                subject_kind=source.about,
                subject=subject,
                detector=source.detector,
                stream="",
                round=record.number,
                log_e=levels[subject],
                n=self.n(subject),
                at=record.at,
                pages=source.pages,
            )
            for subject in subjects
        )

    def onset(self, stream: str) -> OnsetEstimate | None:
        """When did what the stream is evidence of begin? None where no bet has anything to say."""
        if not self.n(stream):
            return None
        row = self.index[stream]
        w, since = self.rows.w[row], self.rows.since[row]
        alive = w > 1.0
        if not alive.any():
            return None
        before = (since - self.rows.gap[row])[alive].min()
        return OnsetEstimate(
            at=float(since[int(np.argmax(w))]),
            after=float(before) if math.isfinite(before) else None,
            by=float(since[alive].max()),
        )

    def restart(self, stream: str) -> None:
        """M back to 0, as after an alarm. Lowering M keeps every guarantee."""
        if stream in self.index:
            self.rows.forget(self.index[stream])

    def to_json(self) -> dict[str, Any]:
        """Every number to the last bit, which ``from_json`` gives back."""
        if not self.index:
            return {}
        doubles = {name: pack(getattr(self.rows, name)) for name in ("m", "w", "since", "gap", "seen_at")}
        return {"names": list(self.index), "n": self.rows.n.tolist(), **doubles}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Streams:
        """Raises nothing for a state of the former layout, a row by stream: its evidence starts at 0."""
        names = stored.get("names")
        if not isinstance(names, list):
            return cls()
        doubles = {name: unpack(stored[name]) for name in ("m", "w", "since", "gap", "seen_at")}
        gap, n = doubles.pop("gap").astype(np.float32), np.array(stored["n"], dtype=np.int64)
        rows = ProcessArrays(gap=gap, n=n, **doubles)
        return cls(rows, {name: row for row, name in enumerate(names)})

    def _where(self, streams: Sequence[str], bets: int) -> NDArray[np.int64]:
        """The rows of these streams, made where there was none."""
        width = self.rows.m.shape[1]
        if self.index and width != bets:
            raise ShapeMismatch("bets of a stream", bets, f"{width}, as in the rounds before")
        new = [stream for stream in streams if stream not in self.index]
        if new:
            more = ProcessArrays.fresh(len(new), bets)
            self.rows = self.rows.joined(more) if self.index else more
            self.index |= {stream: len(self.index) + i for i, stream in enumerate(new)}
        return np.fromiter(map(self.index.__getitem__, streams), dtype=np.int64, count=len(streams))


def _factors(scores: Sequence[Scores], draws: NDArray[np.int64], share: float, bets: int) -> Doubles:
    """(S, G). Scores of 0 and 1 are counts, and equal numbers of draws a look-up; others are taken one by one."""
    together = np.concatenate(scores)
    if together.dtype != np.bool_:
        return np.concatenate([value_factors(np.asarray(row, np.float64)[None, :], share, bets) for row in scores])
    if bool((draws == draws[0]).all()):
        ones = np.count_nonzero(together.reshape(len(scores), -1), axis=1)
        return count_factors(ones, int(draws[0]), share, bets)
    starts = np.cumsum(draws) - draws
    return count_factors(np.add.reduceat(together.astype(np.int64), starts), draws, share, bets)
