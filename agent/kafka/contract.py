"""What a consumer of the traffic topic returns and reports: the contract of the Kafka consumer and the in-memory one.

tests/agent/kafka/test_every_broker.py runs one suite over both; a method that is added here has to be in both.
"""

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
    """One record to be published. at: seconds since the epoch; None: the clock of the client or the broker."""

    key: bytes | None
    value: bytes | None
    headers: Mapping[str, bytes] = field(default_factory=dict)
    at: float | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One record as it is stored in a partition: bytes, nothing decoded. at: its Kafka timestamp, seconds."""

    offset: int
    at: float
    key: bytes | None
    value: bytes | None
    headers: Mapping[str, bytes]


class RecordColumns(NamedTuple):
    """What labels and ranks are computed from, for many records at once; values are not touched.

    offsets, stamps_ms: (n,) int64, stamps in milliseconds; keys: n; headers: n in the client's own form, or () where no
    record has any
    """

    offsets: NDArray[np.int64]
    stamps_ms: NDArray[np.int64]
    keys: Sequence[bytes | None]
    headers: Sequence[Sequence[tuple[str, bytes | None]]]


class LazyMessages(Sequence[Message]):
    """The client's records of one partition, each turned into a Message only when it is accessed.

    One record in a hundred is accessed; building the others would take as long as fetching them.
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
    """The records of one partition that one poll returned, in order; never empty.

    Offsets ascend and may have gaps (compaction).
    """

    topic: str
    partition: int
    messages: Sequence[Message]

    @property
    def topic_partition(self) -> TopicPartition:
        return self.topic, self.partition

    @property
    def first_offset(self) -> int:
        return self.messages[0].offset

    @property
    def next_offset(self) -> int:
        """Where reading continues."""
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
    """Partitions gained and lost since the last call.

    One in both was lost and came back: it is read from its commit.
    """

    gained: frozenset[TopicPartition]
    lost: frozenset[TopicPartition]


class LinkStatus(NamedTuple):
    """Does this consumer reach a broker, and if not, why?"""

    up: bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class Share:
    """What a member of a group has of its topic.

    count: how many partitions there are; 0 where the topic is not there
    """

    partitions: frozenset[TopicPartition]
    count: int


class TopicConsumer(Protocol):
    """What a feed needs of a topic. One thread owns it. Nothing here raises because a broker is unreachable."""

    on_revoke: Callable[[frozenset[TopicPartition]], Mapping[TopicPartition, int]]
    """Called within a poll, before partitions are given back:

    flushes, and returns the offsets that may be committed.
    """

    @property
    def status(self) -> LinkStatus: ...
    def open(self) -> None: ...
    def poll(self) -> list[PartitionRecords]:
        """Waits at most about 0.2 s; [] while there are no records, or no broker."""
        ...

    def take_partition_changes(self) -> PartitionChanges:
        """Since the last call. To be applied before the records of the latest poll are used."""
        ...

    def share(self) -> Share | None:
        """As of the last ``take_partition_changes``; None while it is no member of its group, or partitions are being
        shared out."""
        ...

    def commit(self, offsets: Mapping[TopicPartition, int]) -> bool:
        """True once the broker has stored them; False: try again after a later poll."""
        ...

    def pause(self) -> None:
        """Fetch nothing, stay a member of the group; lasts through rebalances until resume()."""
        ...

    def resume(self) -> None: ...
    def seek(self, offsets: Mapping[TopicPartition, int]) -> bool:
        """Continue from these offsets. False, without effect, where a group's commits say where to begin."""
        ...

    def lag(self) -> Mapping[TopicPartition, int]:
        """Records not read yet, for each partition whose end is known."""
        ...

    def ends(self) -> Mapping[TopicPartition, int]:
        """The offset that the next record will get, for each partition that was fetched from; at least the offset up
        to which it was polled."""
        ...

    def close(self, budget_s: float) -> None:
        """Leave the group, commit nothing."""
        ...


def nothing_to_commit(_: frozenset[TopicPartition]) -> Mapping[TopicPartition, int]:
    """``on_revoke`` of a consumer whose reader has nothing uncommitted."""
    return {}


class StuckWatch:
    """Has a partition made no progress for ``patience_s``, although records are waiting in it?

    Kafka clients have stopped fetching from one partition without any error (kafka-python #3106).
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._since: dict[TopicPartition, tuple[int, float]] = {}

    def stuck(
        self, positions: Mapping[TopicPartition, int], lags: Mapping[TopicPartition, int], now: float
    ) -> TopicPartition | None:
        """The first partition without progress. positions: next offset to read; now: any steady clock, seconds."""
        waiting = {key: positions[key] for key, lag in lags.items() if lag > 0 and key in positions}
        unmoved = {key: stay for key, stay in self._since.items() if waiting.get(key) == stay[0]}
        self._since = {key: unmoved.get(key, (position, now)) for key, position in waiting.items()}
        return next((key for key, (_, since) in self._since.items() if now - since >= self._patience_s), None)

    def forget(self) -> None:
        """Start over: after a pause, a rebalance or a rebuild, missing progress means nothing."""
        self._since = {}
