"""The source of the traffic line: counts every request, samples a few, rejects what cannot be read, commits offsets.

The rule that everything else rests on: an offset is committed only after the batch that contains it is durable, and a
batch is counted only from the watermark of its partition on. docs/architecture.md, "Offsets".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import structlog

from agent.errors import AgentError, PositionLost
from agent.kafka.contract import LinkStatus, PartitionRecords, TopicConsumer, TopicPartition
from agent.records import PartitionAdapter, TrafficBatch
from agent.traffic.failing_records import FailingRecords, batch_aside, halves
from agent.traffic.request_counts import count_labels, request_counts
from agent.traffic.traffic_sampler import TrafficSampler
from agent.traffic.watermarks import Watermarks

CountedUpto = Callable[[], Mapping[TopicPartition, int]]

log = structlog.get_logger(__name__)


class TrafficFeed:
    """One TrafficBatch for each partition that a poll returned records of.

    An error while a batch is made leaves its records for the next call, and nothing is read meanwhile. A record that
    goes on raising the same error is set aside: failing_records.py.

    consumer: of Kafka, or the in-memory one
    sampler: what is kept of a poll, and which adapters are counted; records of any other adapter are rejected, which
    keeps the set of labels bounded
    counted_upto: for each partition the first offset that no durable batch has counted; may raise AgentError
    judged: where the evidence of an earlier run ends, see Watermarks
    max_pending: batches that may be uncommitted before reading pauses (the group keeps its membership)
    flush: makes what was handed out durable; False where it cannot

    Guarantee: each record is handed out at least once and counted once, provided that every batch handed out becomes
    durable in the end: after a crash, records below counted_upto are read again but not counted again, and their
    interactions are marked ``redelivered``. Broken by two owners of one partition at once (a fenced member that still
    writes), which counts a range twice.
    A watermark beyond the end of its partition belongs to an earlier topic of the same name: it is dropped, which is
    logged and reported in ``status``, and counting begins at the first record. Until the new topic is as long as the
    old one was, the store's watermark is still the old one, so a crash in that time may count and judge twice what was
    not committed yet. A log that an unclean election has truncated is taken for a recreated topic, too; and a recreated
    topic that grew past the old watermark before it was first read here cannot be distinguished from the old one.
    Sampling comes before decoding wherever key or headers name the adapter: a record outside the sample is counted and
    never opened, so that a broken one among them goes unnoticed. What a batch has rejected is of the records that were
    opened. Of these, what is no request at all (a chunk of a stream, an engine's error) is subtracted from the count
    again.
    """

    def __init__(
        self,
        consumer: TopicConsumer,
        sampler: TrafficSampler,
        counted_upto: CountedUpto,
        judged: Mapping[PartitionAdapter, int] | None = None,
        max_pending: int = 8,
        flush: Callable[[], bool] = lambda: False,
    ) -> None:
        self._consumer, self._sampler = consumer, sampler
        self._counted_upto, self._max_pending, self._flush = counted_upto, max_pending, flush
        self._watermarks = Watermarks(judged)
        # -> watermark of the deleted topic. Replaced and never changed: the health server's threads read it meanwhile.
        self._recreated: Mapping[TopicPartition, int] = {}
        self._without_watermark: set[TopicPartition] = set()  # gained; the store has not reported its watermarks yet
        self._held_back: list[PartitionRecords] = []  # polled, and in no batch yet
        self._failing = FailingRecords()
        self._uncommitted: dict[TopicPartition, list[int]] = {}  # next_offset of each uncommitted batch
        consumer.on_revoke = self._flush_before_revoke

    @property
    def status(self) -> LinkStatus:
        """Not up while no broker answers; up, with a reason, while reading pauses or after a topic was recreated."""
        link = self._consumer.status
        if not link.up:
            return link
        if waits := self._waits_for:
            return LinkStatus(True, waits)
        recreated = [
            f"{topic}:{number} was deleted and recreated, and is read from its beginning"
            for topic, number in self._recreated
        ]
        return LinkStatus(True, link.why or "; ".join(recreated))

    @property
    def not_read(self) -> str:
        """Why nothing is read of what may be there, "" while all is: that no request came cannot be told then."""
        link = self._consumer.status
        if not link.up:
            return f"Kafka: {link.why}" if link.why else "Kafka: no broker has answered yet"
        return self._waits_for

    @property
    def shed(self) -> Mapping[str, int]:
        """Sampled requests without room in their minute, by adapter."""
        return self._sampler.shed

    def open(self) -> None:
        self._consumer.open()

    def poll(self, now: float) -> list[TrafficBatch]:
        """What came since the last call, a batch a partition; [] while reading pauses or while no broker answers.

        Raises PositionLost where the client fails, and whatever making a batch raises.
        """
        if self._held_back or self._is_full():
            self._consumer.pause()
        else:
            self._consumer.resume()
        polled = self._polled()  # also while paused: a member that does not poll is removed from its group
        self._apply_partition_changes()
        self._held_back += polled
        if not self._held_back or not self._load_watermarks():
            return []
        batches: list[TrafficBatch] = []
        while self._held_back:
            try:
                batches.append(self._batch(self._held_back[0], now))
            except Exception as error:
                if self._failing.is_time_to_narrow(self._held_back[0], error):
                    batches += self._narrowed(error, now)
                    continue
                if batches:  # counted, and to be handed out now; the next call raises first of all
                    break
                raise
            self._held_back.pop(0)
        return batches

    def commit(self) -> None:
        """Commit every batch handed out so far; they must be durable. A refused commit is repeated by the next call."""
        ends = {partition: max(batches) for partition, batches in self._uncommitted.items()}
        if ends and self._consumer.commit(ends):
            self._uncommitted = {}

    def close(self, budget_s: float = 1.0) -> None:
        self._consumer.close(budget_s)

    def lag(self) -> Mapping[TopicPartition, int]:
        """Records not read yet, by partition."""
        return self._consumer.lag()

    def _polled(self) -> list[PartitionRecords]:
        try:
            return list(self._consumer.poll())
        except Exception as error:  # no broker's: those are in its status
            raise PositionLost("the Kafka client failed") from error

    @property
    def _waits_for(self) -> str:
        """What keeps records back that a broker has given, or would give; "" for nothing."""
        if self._held_back:
            return "waiting for the store to report how far it has counted"
        return "waiting for the sinks" if self._is_full() else ""

    def _is_full(self) -> bool:
        return sum(map(len, self._uncommitted.values())) >= self._max_pending

    def _flush_before_revoke(self, revoked: frozenset[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Before partitions go: make their batches durable, so that the next owner's watermark covers ours.

        Runs inside our own poll, on the client's thread, while the loop waits for that poll: nothing else uses the
        sinks meanwhile. {} where they could not flush; the next owner then reads from the last commit.
        """
        ends = {partition: max(batches) for partition, batches in self._uncommitted.items() if partition in revoked}
        return ends if ends and self._flush() else {}

    def _apply_partition_changes(self) -> None:
        """What is uncommitted of a lost partition is its next owner's to commit, who reads it from the last commit."""
        changes = self._consumer.take_partition_changes()
        self._uncommitted = {key: ends for key, ends in self._uncommitted.items() if key not in changes.lost}
        self._held_back = [records for records in self._held_back if records.topic_partition not in changes.lost]
        self._without_watermark = (self._without_watermark - changes.lost) | changes.gained
        self._recreated = {key: mark for key, mark in self._recreated.items() if key not in changes.lost}

    def _load_watermarks(self) -> bool:
        """Ask the store once for each partition gained; False while it does not answer."""
        if not self._without_watermark:
            return True
        try:
            stored = self._counted_upto()
        except AgentError:  # away, or its password is wrong: its own sink reports that, and the canaries go on
            return False
        self._watermarks.add_stored(self._without_watermark, stored)
        ends = self._consumer.ends()
        marks = {partition: self._watermarks.counted(partition) for partition in self._without_watermark}
        self._without_watermark = set()
        resumed = {partition: mark for partition, mark in marks.items() if 0 < mark <= ends.get(partition, mark)}
        if resumed and self._consumer.seek(resumed):
            self._held_back = [records for records in self._held_back if records.topic_partition not in resumed]
        return True

    def _is_recreated(self, records: PartitionRecords) -> bool:
        """Do these records lie below a watermark that no record of this topic can have set?"""
        partition = records.topic_partition
        mark = self._watermarks.highest(partition)
        if records.first_offset >= mark or self._consumer.ends().get(partition, mark) >= mark:
            return False
        log.warning("topic_recreated", topic=records.topic, partition=records.partition, read_before_up_to=mark)
        self._watermarks.reset(partition)
        self._uncommitted.pop(partition, None)  # committing the old topic's end would skip records of the new one
        self._recreated = {**self._recreated, partition: mark}
        return True

    def _narrowed(self, error: Exception, now: float) -> list[TrafficBatch]:
        """The first records again, in halves; a single one is set aside, in a batch of its own."""
        records = self._held_back.pop(0)
        if len(records.messages) > 1:
            self._held_back[:0] = halves(records)
            return []
        where = {"topic": records.topic, "partition": records.partition, "offset": records.first_offset}
        log.error("record_set_aside", **where, error=type(error).__name__)  # its message could quote production text
        return [self._pending(batch_aside(records, error, now))]

    def _batch(self, records: PartitionRecords, now: float) -> TrafficBatch:
        partition = records.topic_partition
        topic_recreated = self._is_recreated(records)
        mark = self._watermarks.counted(partition)
        columns = records.columns()
        labels = self._sampler.label(columns)
        sampled = self._sampler(records, columns, labels, self._watermarks, now)
        counts = count_labels(labels, columns, mark, now) + sampled.counts
        batch = TrafficBatch(
            topic=records.topic,
            partition=records.partition,
            first_offset=records.first_offset,
            next_offset=records.next_offset,
            interactions=sampled.kept,
            counts=request_counts(records, mark, counts),
            rejected=sampled.rejected,
            records=len(records.messages),
            at=now,
            opened=sampled.opened,
            first_ms=int(columns.stamps_ms[0]),
            topic_recreated=topic_recreated,
        )
        return self._pending(batch)

    def _pending(self, batch: TrafficBatch) -> TrafficBatch:
        """Last of all: what raises before leaves records that were not counted yet."""
        partition, next_offset = (batch.topic, batch.partition), batch.next_offset
        self._watermarks.advance(partition, next_offset)
        if next_offset >= self._recreated.get(partition, math.inf):
            self._recreated = {key: mark for key, mark in self._recreated.items() if key != partition}
        self._uncommitted.setdefault(partition, []).append(next_offset)
        return batch
