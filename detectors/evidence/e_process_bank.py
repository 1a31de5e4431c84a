"""The running e-detectors of many streams: what each remembers, one row of arrays a stream, all moved at once.

Saved state is read back from the JSON keys of ``to_json``: they stay. The arithmetic is that of e_detector.py, to which
tests/detectors/evidence/test_e_process_bank.py holds it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from detectors.errors import ShapeMismatch
from detectors.evidence.array_json import pack, unpack
from detectors.evidence.e_detector import count_factors, nats, step, step_cusum, value_factors
from detectors.records import BaseRound, Evidence, SubjectKind

Doubles = NDArray[np.float64]
Scores = NDArray[np.bool_] | Doubles
Key = TypeVar("Key", bound=Hashable)

# Rows moved at a time: what one round touches of them, some 600 KB, stays in a core's own cache.
CHUNK = 2048


@dataclass(frozen=True, slots=True)
class EvidenceSource:
    """Which detector the evidence comes from, what kind of subject it is about, and whether it may page."""

    about: SubjectKind
    detector: str
    pages: bool


@dataclass(frozen=True, slots=True)
class OnsetEstimate:
    """When the evidence says that its cause began, seconds since the epoch.

    at: the round in which the CUSUM statistic of the leading bet last restarted
    after, by: from the measured round before the earliest such restart to the latest one, over the bets whose CUSUM
    statistic is above 1; after is None where there was no round before

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

    m, w: (S, G) M and the CUSUM statistic, no logarithms
    since: (S, G) ``at`` of the round in which the CUSUM statistic last restarted, nan before the first round
    gap: (S, G) seconds from the measured round before that one, inf where there was none
    n: (S,) scores since M last started at 0; measured_at: (S,) ``at`` of the last measured round, -inf before the first
    """

    m: Doubles
    w: Doubles
    since: Doubles
    gap: NDArray[np.float32]
    n: NDArray[np.int64]
    measured_at: Doubles

    @classmethod
    def fresh(cls, streams: int, bets: int) -> ProcessArrays:
        """Streams before their first score."""
        shape = (streams, bets)
        return cls(
            m=np.zeros(shape),
            w=np.zeros(shape),
            since=np.full(shape, np.nan),
            gap=np.full(shape, np.inf, dtype=np.float32),
            n=np.zeros(streams, dtype=np.int64),
            measured_at=np.full(streams, -np.inf),
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
        restarted = step_cusum(self.w, factors)
        np.copyto(self.since, at, where=restarted)
        np.copyto(self.gap, (at - self.measured_at).astype(np.float32)[:, None], where=restarted)
        self.measured_at[:] = at
        self.n += draws

    def forget(self, row: int) -> None:
        """M and the CUSUM statistic back to 0; when the stream was last measured is kept."""
        measured_at = self.measured_at[row]
        self.put(np.array([row]), ProcessArrays.fresh(1, self.m.shape[1]))
        self.measured_at[row] = measured_at


def move_counts(rows: ProcessArrays, ones: NDArray[np.int64], draws: int, share: float, at: float) -> None:
    """One round of many streams with as many draws each, in place. ones: (S,) how many of them were beyond."""
    for start in range(0, len(ones), CHUNK):
        chosen = slice(start, start + CHUNK)
        rows.part(chosen).move(count_factors(ones[chosen], draws, share, rows.m.shape[1]), draws, at)


@dataclass(slots=True)
class EProcessBank(Generic[Key]):
    """E-detectors by stream. Streams have any hashable key.

    rows: what is remembered; index: stream -> its row
    """

    layout: ClassVar[int] = 1

    rows: ProcessArrays = field(default_factory=lambda: ProcessArrays.fresh(0, 0))
    index: dict[Key, int] = field(default_factory=dict)

    def advance(self, scores: Mapping[Key, Scores], share: float, bets: int, at: float) -> None:
        """One round of each stream that has scores, in one array update.

        scores: stream -> (n,) its scores of this round, bool or in [0, 1]; a stream without any stays as it is,
        without the "+1"
        """
        measured = {stream: own for stream, own in scores.items() if len(own)}
        if not measured:
            return
        rows = self._rows_of(list(measured), bets)
        draws = np.fromiter(map(len, measured.values()), dtype=np.int64, count=len(measured))
        part = self.rows.part(rows)
        part.move(_factors(list(measured.values()), draws, share, bets), draws, at)
        self.rows.put(rows, part)

    def level(self, stream: Key) -> float:
        """ln of the mean of M, in nats; 0 while there is no observation ("not enough data yet" is a value)."""
        return self.levels([stream])[stream]

    def levels(self, streams: Sequence[Key]) -> dict[Key, float]:
        """Stream -> ``level``, of many at once."""
        scored = [stream for stream in streams if self.n(stream)]
        logs = nats(self.rows.m[[self.index[stream] for stream in scored]]) if scored else np.zeros(0)
        return dict.fromkeys(streams, 0.0) | dict(zip(scored, logs.tolist(), strict=True))

    def n(self, stream: Key) -> int:
        """Scores since the stream's M last started at 0."""
        return int(self.rows.n[self.index[stream]]) if stream in self.index else 0

    def evidence(
        self: EProcessBank[str], source: EvidenceSource, subjects: Sequence[str], record: BaseRound
    ) -> tuple[Evidence, ...]:
        """The level of each subject after a round, in their order; a subject's stream has its name as its key."""
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

    def onset(self, stream: Key) -> OnsetEstimate | None:
        """When did what the stream is evidence of begin? None where no CUSUM statistic is above 1."""
        if not self.n(stream):
            return None
        row = self.index[stream]
        w, since = self.rows.w[row], self.rows.since[row]
        above = w > 1.0
        if not above.any():
            return None
        before = (since - self.rows.gap[row])[above].min()
        return OnsetEstimate(
            at=float(since[int(np.argmax(w))]),
            after=float(before) if math.isfinite(before) else None,
            by=float(since[above].max()),
        )

    def onsets(self, stream: Key) -> set[float]:
        """Every round that ``onset`` may name: where the CUSUM statistic of a bet last restarted, if it is above 1."""
        if stream not in self.index:
            return set()
        row = self.index[stream]
        return set(self.rows.since[row][self.rows.w[row] > 1.0].tolist())

    def restart(self, stream: Key) -> None:
        """M back to 0, as after an alarm. Lowering M keeps every guarantee."""
        if stream in self.index:
            self.rows.forget(self.index[stream])

    def part(self, wanted: Callable[[Key], bool]) -> Self:
        """Some of the streams, in their order, each as it is."""
        chosen = [stream for stream in self.index if wanted(stream)]
        rows = np.array([self.index[stream] for stream in chosen], dtype=np.int64)
        return type(self)(self.rows.part(rows), {stream: row for row, stream in enumerate(chosen)})

    def joined(self, more: Self) -> Self:
        """These streams and those of another bank, which has none of the same."""
        if not (self.index and more.index):
            return self if self.index else more
        index = self.index | {stream: len(self.index) + row for stream, row in more.index.items()}
        return type(self)(self.rows.joined(more.rows), index)

    def to_json(self, form: Callable[[Key], Any] | None = None) -> dict[str, Any]:
        """Every number to the last bit, which ``from_json`` gives back.

        form: the JSON form of a key; None where keys are names. Forms lie under a JSON key of their own, so that a
        former version, which knows names alone, starts the evidence at 0 instead of failing on them
        """
        if not self.index:
            return {}
        rows = self.rows
        keys = {"names": list(self.index)} if form is None else {"keys": [form(stream) for stream in self.index]}
        return {
            **keys,
            "n": rows.n.tolist(),
            "m": pack(rows.m),
            "w": pack(rows.w),
            "since": pack(rows.since),
            "gap": pack(rows.gap),
            "seen_at": pack(rows.measured_at),
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any], key: Callable[[Any], Key] | None = None) -> Self:
        """The inverse of ``to_json``. A state of an earlier layout, a row by stream, gives streams that start at 0.

        key: from the JSON form of a key to the key, the names of a former version included; None where keys are names
        """
        keys = stored.get("keys", stored.get("names"))
        if not isinstance(keys, list):
            return cls()
        rows = ProcessArrays(
            m=unpack(stored["m"]),
            w=unpack(stored["w"]),
            since=unpack(stored["since"]),
            gap=unpack(stored["gap"]).astype(np.float32),
            n=np.array(stored["n"], dtype=np.int64),
            measured_at=unpack(stored["seen_at"]),
        )
        return cls(rows, {form if key is None else key(form): row for row, form in enumerate(keys)})

    def _rows_of(self, streams: Sequence[Key], bets: int) -> NDArray[np.int64]:
        """The rows of these streams, added where there was none."""
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
