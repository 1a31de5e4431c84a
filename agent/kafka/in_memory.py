"""The in-memory twin of Kafka: a topic with partitions and a group, and a consumer with the real one's surface.

For quick tests and the end-to-end story without a broker; the same contract suite runs over both. Not thread-safe.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterable, Mapping

from agent.kafka.contract import (
    LinkStatus,
    Message,
    Outgoing,
    PartitionChanges,
    PartitionRecords,
    TopicPartition,
    nothing_to_commit,
)


class MemoryTopic:
    """One topic and one group that reads it. away: set it, and every member finds no broker; nothing is lost.

    clock: timestamp of records that carry none, seconds
    """

    def __init__(self, name: str = "traffic", partitions: int = 1, clock: Callable[[], float] = time.time) -> None:
        self.name, self.away = name, False
        self.places: tuple[TopicPartition, ...] = tuple((name, number) for number in range(partitions))
        self.logs: dict[TopicPartition, list[Message]] = {place: [] for place in self.places}
        self.committed: dict[TopicPartition, int] = {}
        self.members: list[MemoryConsumer] = []
        self.generation = 0
        self._clock = clock

    def publish(self, records: Iterable[Outgoing], partition: int | None = None) -> int:
        """Append them all; keyed records go to the partition of their key, others to the first. Returns how many."""
        sent = list(records)
        for record in sent:
            number = zlib.crc32(record.key or b"") % len(self.places) if partition is None else partition
            log = self.logs[self.places[number if record.key or partition is not None else 0]]
            at = self._clock() if record.at is None else record.at
            log.append(Message(len(log), at, record.key, record.value, dict(record.headers)))
        return len(sent)

    def recreate(self) -> None:
        """Deleted and created again under the same name: neither records nor commits are left."""
        for log in self.logs.values():
            log.clear()
        self.committed.clear()

    def join(self, member: MemoryConsumer) -> None:
        self.members.append(member)
        self.generation += 1

    def leave(self, member: MemoryConsumer) -> None:
        if member in self.members:
            self.members.remove(member)
            self.generation += 1

    def share_of(self, member: MemoryConsumer) -> frozenset[TopicPartition]:
        """The partitions of one member: every n-th, in order of joining."""
        return frozenset(self.places[self.members.index(member) :: len(self.members)])


class MemoryConsumer:
    """A member of the topic's group. As in Kafka's eager protocol a rebalance first takes all partitions away."""

    def __init__(self, topic: MemoryTopic, max_poll_records: int = 500) -> None:
        self._topic, self._max_poll_records = topic, max_poll_records
        self._generation = -1
        self._position: dict[TopicPartition, int] = {}
        self._gained: frozenset[TopicPartition] = frozenset()
        self._lost: frozenset[TopicPartition] = frozenset()
        self._paused = False
        self._open = False
        self.leaving: Callable[[frozenset[TopicPartition]], Mapping[TopicPartition, int]] = nothing_to_commit

    @property
    def status(self) -> LinkStatus:
        if not self._open:
            return LinkStatus(False, "not open")
        return LinkStatus(False, "no connection to any broker") if self._topic.away else LinkStatus(True)

    def open(self) -> None:
        self._open = True
        self._topic.join(self)

    def poll(self) -> list[PartitionRecords]:
        if not self.status.up:
            return []
        self._follow_group()
        room, polled = self._max_poll_records, []
        for (name, number), at in [] if self._paused else sorted(self._position.items()):
            log = self._topic.logs[name, number]
            position = at if at <= len(log) else 0  # beyond the end: from the earliest, as it is configured in Kafka
            messages = tuple(log[position : position + room])
            if messages:
                polled.append(PartitionRecords(name, number, messages))
                room -= len(messages)
                self._position[name, number] = polled[-1].next_offset
        return polled

    def take_partition_changes(self) -> PartitionChanges:
        moves = PartitionChanges(self._gained, self._lost)
        self._gained = self._lost = frozenset()
        return moves

    def commit(self, offsets: Mapping[TopicPartition, int]) -> bool:
        """Refused while the broker is away and by a member that has not noticed a rebalance."""
        if not self.status.up or self._generation != self._topic.generation:
            return False
        self._topic.committed.update(offsets)
        return True

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False

    def seek(self, places: Mapping[TopicPartition, int]) -> bool:  # noqa: ARG002 - a group begins at its commits
        return False

    def lag(self) -> Mapping[TopicPartition, int]:
        return {place: len(self._topic.logs[place]) - position for place, position in self._position.items()}

    def ends(self) -> Mapping[TopicPartition, int]:
        return {place: len(self._topic.logs[place]) for place in self._position}

    def close(self, budget_s: float = 0.0) -> None:  # noqa: ARG002 - the surface of the real one
        self._open = False
        self._topic.leave(self)

    def _follow_group(self) -> None:
        if self._generation == self._topic.generation:
            return
        for place, offset in self.leaving(frozenset(self._position)).items():
            self._topic.committed[place] = max(offset, self._topic.committed.get(place, 0))  # its next owner may be on
        self._generation = self._topic.generation
        self._lost |= frozenset(self._position)
        self._gained = self._topic.share_of(self)
        self._position = {place: self._topic.committed.get(place, 0) for place in self._gained}
