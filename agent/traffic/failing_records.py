"""Records that this program fails on, as opposed to those that cannot be read: which of a poll is it, and since when?

A record that raises an error nobody expected would stop its partition for ever, because what is not handed out is not
committed, and is read again after each start. So after some tries of the same records with the same error they are
tried in halves, down to the one that fails, and that one is set aside. What a store, a broker, a disk or the memory
raises is never a record's fault: it is tried again for as long as it lasts.
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.errors import is_of_a_record
from agent.kafka.contract import PartitionRecords, TopicPartition
from agent.records import RejectedRecord, RejectionReason, TrafficBatch

# Tries of the same records as they came. Between two the loop waits (back_off.py): what passes by itself has time to.
TRIES = 3


@dataclass(frozen=True, slots=True)
class _Failing:
    """upto: the offset behind these records; tries: so far, in a row and with this error"""

    partition: TopicPartition
    first_offset: int
    upto: int
    error: str
    tries: int = 1

    def covers(self, records: PartitionRecords, error: str) -> bool:
        """Are they a part of these, with this error?"""
        is_part = self.first_offset <= records.first_offset and records.next_offset <= self.upto
        return records.topic_partition == self.partition and is_part and error == self.error


class FailingRecords:
    """``is_time_to_narrow`` is told of each error that making a batch of records raised."""

    def __init__(self) -> None:
        self._failing: _Failing | None = None

    def is_time_to_narrow(self, records: PartitionRecords, error: Exception) -> bool:
        """Was the same tried often enough? Then they are to be tried in halves, or set aside where they are one."""
        name, before = type(error).__name__, self._failing
        if not is_of_a_record(error):
            self._failing = None
            return False
        if before is None or not before.covers(records, name):
            self._failing = _Failing(records.topic_partition, records.first_offset, records.next_offset, name)
            return False
        if before.tries < TRIES:
            tries = before.tries + 1
            self._failing = _Failing(before.partition, before.first_offset, before.upto, name, tries)
        return self._failing is not None and self._failing.tries >= TRIES


def halves(records: PartitionRecords) -> list[PartitionRecords]:
    """Both in order; of at least two."""
    middle = len(records.messages) // 2
    parts = records.messages[:middle], records.messages[middle:]
    return [PartitionRecords(records.topic, records.partition, part) for part in parts]


def batch_aside(records: PartitionRecords, error: Exception, now: float) -> TrafficBatch:
    """Of a single record: nothing is known of it but where it is and what it raised. It is not among the counts."""
    where, offset = records.topic_partition, records.first_offset
    rejected = RejectedRecord(*where, offset, RejectionReason.FAILED, type(error).__name__, now)
    first_ms = round(1000 * records.messages[0].at)
    return TrafficBatch(*where, offset, records.next_offset, (), (), (rejected,), 1, now, opened=1, first_ms=first_ms)
