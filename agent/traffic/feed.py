"""The traffic line's source: counts every request, samples a few, sets aside what cannot be read, forgets on commit."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping

from agent.errors import AgentError
from agent.kafka.contract import LinkStatus, PartitionRecords, TopicConsumer, TopicPartition
from agent.records import PartitionAdapter, RejectionReason, TrafficBatch
from agent.traffic.record_labels import counts_of, request_counts
from agent.traffic.traffic_sampler import TrafficSampler
from agent.traffic.watermarks import Watermarks

CountedUpto = Callable[[], Mapping[TopicPartition, int]]

_log = logging.getLogger(__name__)


class TrafficFeed:
    """One TrafficBatch for each partition that a poll found records in.

    consumer: a Consumer of Kafka or its twin
    sampler: what is kept of a poll, and the names that are counted; any other name is set aside, which keeps every
    label set bounded
    counted_upto: for each partition the first offset that no durable batch has counted; may raise AgentError
    judged: where the evidence of an earlier run ends, see Watermarks
    max_pending: batches that may be uncommitted before reading pauses (the group keeps its membership)
    flush: makes what was handed out durable; False where it cannot

    Guarantee: each record is handed out at least once and counted once, as long as every batch handed out becomes
    durable in the end: after a crash, records below counted_upto are read again but not counted again, and their
    interactions are marked ``again``. Broken by two owners of one partition at once (a fenced member that still
    writes), which counts a range twice.
    A mark beyond the end of its partition is one of an earlier topic of the same name: it is dropped, which is said,
    and counting begins at the first record. Until the new topic is as long as the old one was, the store's mark is
    still the old one, so a crash in that time may count and judge twice what was not committed yet. A log that an
    unclean election has cut is taken for a new one, too; and a new topic that grew past the old mark before it was
    first read here cannot be told from the old one.
    Sampling comes before decoding wherever key or headers name the adapter: what is not in the sample is counted and
    never opened, so that a bad record in it goes unnoticed. ``rejected`` is of the records that were opened. Of these,
    what is no request at all (a chunk of a stream, an engine's error) is taken out of the count again.
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
        self._marks = Watermarks(judged)
        self._anew: dict[TopicPartition, int] = {}  # made anew: the mark of the topic that was there before
        self._unmarked: set[TopicPartition] = set()  # newly ours: what the store has of them is not known yet
        self._waiting: list[PartitionRecords] = []  # read, but the store has not told their marks
        self._pending: dict[TopicPartition, list[int]] = {}  # where each uncommitted batch ends
        consumer.leaving = self._settle
        self.records = 0
        self.rejected: Counter[RejectionReason] = Counter()

    @property
    def status(self) -> LinkStatus:
        """Not up while no broker answers; up, with a reason, while it holds back or a topic was made anew."""
        link = self._consumer.status
        if not link.up:
            return link
        if self._waiting or self._is_full():
            why = "waiting for the store to tell what it holds" if self._waiting else "waiting for the sinks"
            return LinkStatus(True, why)
        told = [f"{topic}:{partition} was made anew, and is read from its beginning" for topic, partition in self._anew]
        return LinkStatus(True, link.why or "; ".join(told))

    @property
    def shed(self) -> Mapping[str, int]:
        """Sampled requests without room in their minute, by adapter."""
        return self._sampler.shed

    def open(self) -> None:
        self._consumer.open()

    def poll(self, now: float) -> list[TrafficBatch]:
        """What came since the last call, a batch for each partition; [] while held back or while no broker answers."""
        if self._waiting or self._is_full():
            self._consumer.pause()
        else:
            self._consumer.resume()
        polled = self._consumer.poll()  # also while paused: a member that does not poll is put out of its group
        self._follow_moves()
        self._waiting += polled
        if not self._waiting or not self._know_marks():
            return []
        polled, self._waiting = self._waiting, []
        return [self._batch(got, now) for got in polled]

    def commit(self) -> None:
        """Let Kafka forget every batch handed out so far; they must be durable. A refused commit is repeated later."""
        ends = {place: max(batches) for place, batches in self._pending.items()}
        if ends and self._consumer.commit(ends):
            self._pending = {}

    def close(self, budget_s: float = 1.0) -> None:
        self._consumer.close(budget_s)

    def lag(self) -> Mapping[TopicPartition, int]:
        """Records not read yet, by partition."""
        return self._consumer.lag()

    def _is_full(self) -> bool:
        return sum(map(len, self._pending.values())) >= self._max_pending

    def _settle(self, leaving: frozenset[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Before partitions go: make their batches durable, so that the next owner's mark is behind ours.

        Runs inside our own poll, on the client's thread, while the loop waits for that poll: nothing else touches the
        sinks meanwhile. {} where they could not flush; the next owner then reads from the last commit, as in a crash.
        """
        ends = {place: max(batches) for place, batches in self._pending.items() if place in leaving}
        return ends if ends and self._flush() else {}

    def _follow_moves(self) -> None:
        """What we held of a lost partition is its next owner's to commit; it is read again from the last commit."""
        moves = self._consumer.take_partition_changes()
        self._pending = {place: ends for place, ends in self._pending.items() if place not in moves.lost}
        self._waiting = [got for got in self._waiting if got.place not in moves.lost]
        self._unmarked = (self._unmarked - moves.lost) | moves.gained
        self._anew = {place: mark for place, mark in self._anew.items() if place not in moves.lost}

    def _know_marks(self) -> bool:
        """Ask the store once for each partition that became ours; False while it cannot tell."""
        if not self._unmarked:
            return True
        try:
            stored = self._counted_upto()
        except AgentError:  # away, or its password is wrong: its own sink says so, and the canaries go on
            return False
        self._marks.learn(self._unmarked, stored)
        ends = self._consumer.ends()
        found = {place: self._marks.counted(place) for place in self._unmarked}
        self._unmarked = set()
        behind = {place: mark for place, mark in found.items() if 0 < mark <= ends.get(place, mark)}
        if behind and self._consumer.seek(behind):
            self._waiting = [got for got in self._waiting if got.place not in behind]
        return True

    def _is_anew(self, got: PartitionRecords) -> bool:
        """Do these records lie below a mark that no record of this topic can have set?"""
        mark = self._marks.highest(got.place)
        if got.first_offset >= mark or self._consumer.ends().get(got.place, mark) >= mark:
            return False
        _log.warning("%s:%d ends below offset %d, which was read before: it was made anew", *got.place, mark)
        self._marks.forget(got.place)
        self._pending.pop(got.place, None)  # to commit where the old one ended would skip the new one's records
        self._anew[got.place] = mark
        return True

    def _batch(self, got: PartitionRecords, now: float) -> TrafficBatch:
        anew = self._is_anew(got)
        mark = self._marks.counted(got.place)
        outline = got.columns()
        told = self._sampler.tell(outline)
        seen = self._sampler(got, outline, told, self._marks, now)
        counts = counts_of(told, outline, mark, now) + seen.counts
        self._marks.move(got.place, got.next_offset)
        if got.next_offset >= self._anew.get(got.place, math.inf):
            del self._anew[got.place]
        self._pending.setdefault(got.place, []).append(got.next_offset)
        self.records += len(got.messages)
        self.rejected.update(one.reason for one in seen.rejected)
        return TrafficBatch(
            topic=got.topic,
            partition=got.partition,
            first_offset=got.first_offset,
            next_offset=got.next_offset,
            interactions=seen.kept,
            counts=request_counts(got, mark, counts),
            rejected=seen.rejected,
            records=len(got.messages),
            at=now,
            opened=seen.opened,
            first_ms=int(outline.stamps_ms[0]),
            topic_recreated=anew,
        )
