"""Kafka in memory: a topic with partitions and one group, and a consumer that fulfils the contract of the real one.

For quick tests and the end-to-end story without a broker. Not thread-safe. The same suite runs over both
(tests/agent/kafka/test_every_broker.py): what is changed here has to stay as Kafka behaves.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping

from agent.clock import Clock
from agent.kafka.contract import (
    LinkStatus,
    Message,
    Outgoing,
    PartitionChanges,
    PartitionRecords,
    Share,
    TopicPartition,
    nothing_to_commit,
)


class MemoryTopic:
    """One topic and one group that reads it. away: set it, and no member reaches a broker; nothing is lost.

    clock: for the timestamp of records that carry none
    """

    def __init__(self, name: str = "traffic", partitions: int = 1, clock: Clock | None = None) -> None:
        self.name, self.away = name, False
        self.partitions: tuple[TopicPartition, ...] = tuple((name, number) for number in range(partitions))
        self.logs: dict[TopicPartition, list[Message]] = {partition: [] for partition in self.partitions}
        self.committed: dict[TopicPartition, int] = {}
        self.members: list[MemoryConsumer] = []
        self.generation = 0
        self._clock = clock or Clock()

    def publish(self, records: Iterable[Outgoing], partition: int | None = None) -> int:
        """Append them all; keyed records go to the partition of their key, others to the first. Returns how many."""
        outgoing = list(records)
        for record in outgoing:
            number = zlib.crc32(record.key or b"") % len(self.partitions) if partition is None else partition
            messages = self.logs[self.partitions[number if record.key or partition is not None else 0]]
            at = self._clock.now() if record.at is None else record.at
            messages.append(Message(len(messages), at, record.key, record.value, dict(record.headers)))
        return len(outgoing)

    def recreate(self) -> None:
        """Deleted and created again under the same name: neither records nor commits are left."""
        for messages in self.logs.values():
            messages.clear()
        self.committed.clear()

    def join(self, member: MemoryConsumer) -> None:
        self.members.append(member)
        self.generation += 1

    def leave(self, member: MemoryConsumer) -> None:
        if member in self.members:
            self.members.remove(member)
            self.generation += 1

    def assignment(self, member: MemoryConsumer) -> frozenset[TopicPartition]:
        """The partitions of one member: every n-th, in order of joining."""
        return frozenset(self.partitions[self.members.index(member) :: len(self.members)])


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
        self.on_revoke: Callable[[frozenset[TopicPartition]], Mapping[TopicPartition, int]] = nothing_to_commit

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
        changes = PartitionChanges(self._gained, self._lost)
        self._gained = self._lost = frozenset()
        return changes

    def share(self) -> Share | None:
        if not self.status.up or self._generation != self._topic.generation:
            return None
        return Share(frozenset(self._position), len(self._topic.partitions))

    def commit(self, offsets: Mapping[TopicPartition, int]) -> bool:
        """Refused while the broker is away, and to a member that has not noticed a rebalance."""
        if not self.status.up or self._generation != self._topic.generation:
            return False
        self._topic.committed.update(offsets)
        return True

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False

    def seek(self, offsets: Mapping[TopicPartition, int]) -> bool:  # noqa: ARG002 - a group begins at its commits
        return False

    def lag(self) -> Mapping[TopicPartition, int]:
        return {key: len(self._topic.logs[key]) - position for key, position in self._position.items()}

    def ends(self) -> Mapping[TopicPartition, int]:
        return {partition: len(self._topic.logs[partition]) for partition in self._position}

    def close(self, budget_s: float = 0.0) -> None:  # noqa: ARG002 - the real consumer's signature
        self._open = False
        self._topic.leave(self)

    def _follow_group(self) -> None:
        if self._generation == self._topic.generation:
            return
        committed = self._topic.committed
        for partition, offset in self.on_revoke(frozenset(self._position)).items():
            committed[partition] = max(offset, committed.get(partition, 0))  # its next owner may have committed more
        self._generation = self._topic.generation
        self._lost |= frozenset(self._position)
        self._gained = self._topic.assignment(self)
        self._position = {partition: committed.get(partition, 0) for partition in self._gained}
