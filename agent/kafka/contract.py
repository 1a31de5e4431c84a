"""The words of a topic: what a consumer hands out and says of itself; shared by Kafka and its in-memory twin."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, overload

import numpy as np
from numpy.typing import NDArray

TopicPartition = tuple[str, int]
"""(topic, partition)"""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One record to be published. at: seconds since the epoch, the broker's or client's own clock when None."""

    key: bytes | None
    value: bytes | None
    headers: Mapping[str, bytes] = field(default_factory=dict)
    at: float | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One record as it lies in a partition: bytes, nothing decoded. at: its Kafka timestamp, seconds."""

    offset: int
    at: float
    key: bytes | None
    value: bytes | None
    headers: Mapping[str, bytes]


class RecordColumns(NamedTuple):
    """What sampling looks at, of many records at once: their values stay where they are.

    offsets, stamps_ms: (n,) int64; keys: n; headers: n in the client's own form, or () where no record has any
    """

    offsets: NDArray[np.int64]
    stamps_ms: NDArray[np.int64]
    keys: Sequence[bytes | None]
    headers: Sequence[Sequence[tuple[str, bytes | None]]]


class LazyMessages(Sequence[Message]):
    """Records as a client hands them out, each turned into a Message when it is asked for and not before.

    Of a hundred records one is looked at; to build the others would take as long as to fetch them.
    records: with offset, timestamp (ms), key, value and headers; to_message: one of them as a Message
    """

    def __init__(self, records: Sequence[Any], to_message: Callable[[Any], Message]) -> None:
        self._records, self._to_message = records, to_message

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, at: int) -> Message: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Message]: ...
    def __getitem__(self, at: int | slice) -> Message | Sequence[Message]:
        if isinstance(at, slice):
            return LazyMessages(self._records[at], self._to_message)
        return self._to_message(self._records[at])

    def __iter__(self) -> Iterator[Message]:
        return map(self._to_message, self._records)

    def columns(self) -> RecordColumns:
        headers = [record.headers for record in self._records]
        return RecordColumns(
            np.array([record.offset for record in self._records], np.int64),
            np.array([record.timestamp for record in self._records], np.int64),
            [record.key for record in self._records],
            headers if any(headers) else (),
        )


@dataclass(frozen=True, slots=True)
class PartitionRecords:
    """What one poll gave of one partition, in order; never empty. Offsets ascend and may have holes (compaction)."""

    topic: str
    partition: int
    messages: Sequence[Message]

    @property
    def place(self) -> TopicPartition:
        return self.topic, self.partition

    @property
    def first_offset(self) -> int:
        return self.messages[0].offset

    @property
    def next_offset(self) -> int:
        """Where reading goes on."""
        return self.messages[-1].offset + 1

    def columns(self) -> RecordColumns:
        if isinstance(self.messages, LazyMessages):
            return self.messages.columns()
        headers = [tuple(message.headers.items()) for message in self.messages]
        return RecordColumns(
            np.array([message.offset for message in self.messages], np.int64),
            np.array([round(message.at * 1000) for message in self.messages], np.int64),
            [message.key for message in self.messages],
            headers if any(headers) else (),
        )


@dataclass(frozen=True, slots=True)
class PartitionChanges:
    """Partitions that changed hands since last asked. One in both came back: it is read from its commit."""

    gained: frozenset[TopicPartition]
    lost: frozenset[TopicPartition]


class LinkStatus(NamedTuple):
    """Is the broker reachable for this consumer, and if not, why?"""

    up: bool
    why: str = ""


class TopicConsumer(Protocol):
    """What a feed needs of a topic. One thread owns it. Nothing here raises because a broker is away."""

    leaving: Callable[[frozenset[TopicPartition]], Mapping[TopicPartition, int]]
    """Called within a poll, while partitions can still be given back in order: flush, and say what may be committed."""

    @property
    def status(self) -> LinkStatus: ...
    def open(self) -> None: ...
    def poll(self) -> list[PartitionRecords]:
        """Waits at most about 0.2 s; [] while there is nothing, or no broker."""
        ...

    def take_partition_changes(self) -> PartitionChanges:
        """Apply these before the records of the poll that came before this call."""
        ...

    def commit(self, offsets: Mapping[TopicPartition, int]) -> bool:
        """True once the broker holds them; False means: try again after a later poll."""
        ...

    def pause(self) -> None:
        """Fetch nothing, stay a member of the group; holds over rebalances until resume()."""
        ...

    def resume(self) -> None: ...
    def seek(self, places: Mapping[TopicPartition, int]) -> bool:
        """Read on from these offsets, where this consumer begins from no commit; False where it has one, or cannot."""
        ...

    def lag(self) -> Mapping[TopicPartition, int]:
        """Records behind the end, for each partition whose end is known."""
        ...

    def ends(self) -> Mapping[TopicPartition, int]:
        """The offset that the next record will get, of each partition whose records were asked for; at least what
        was polled of it."""
        ...

    def close(self, budget_s: float) -> None:
        """Leave the group, commit nothing."""
        ...


def nothing_to_commit(_: frozenset[TopicPartition]) -> Mapping[TopicPartition, int]:
    """``leaving`` of a consumer whose reader holds nothing back."""
    return {}


class StuckWatch:
    """Has a partition stood still, with records waiting, for ``patience_s``?

    Exists because clients of Kafka were seen to stop fetching one partition without any error (kafka-python #3106).
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._since: dict[TopicPartition, tuple[int, float]] = {}

    def stuck(
        self, positions: Mapping[TopicPartition, int], lags: Mapping[TopicPartition, int], now: float
    ) -> TopicPartition | None:
        """The first partition that stands still. positions: next offset to read; now: any steady clock, seconds."""
        waiting = {place: positions[place] for place, lag in lags.items() if lag > 0 and place in positions}
        kept = {place: seen for place, seen in self._since.items() if waiting.get(place) == seen[0]}
        self._since = {place: kept.get(place, (position, now)) for place, position in waiting.items()}
        return next((p for p, (_, since) in self._since.items() if now - since >= self._patience_s), None)

    def forget(self) -> None:
        """Start again: after a pause, a rebalance or a rebuild standing still means nothing."""
        self._since = {}
