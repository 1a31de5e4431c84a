from __future__ import annotations

from agent.kafka.contract import Message, PartitionRecords, StuckWatch

PLACE = ("traffic", 0)
OTHER = ("traffic", 1)


def test_a_partition_without_progress_with_records_waiting_is_stuck() -> None:
    watch = StuckWatch(patience_s=20.0)
    assert watch.stuck({PLACE: 5, OTHER: 1}, {PLACE: 3, OTHER: 0}, 0.0) is None
    assert watch.stuck({PLACE: 5, OTHER: 1}, {PLACE: 4, OTHER: 0}, 19.9) is None
    assert watch.stuck({PLACE: 5, OTHER: 1}, {PLACE: 4, OTHER: 0}, 20.0) == PLACE


def test_slow_progress_is_not_stuck() -> None:
    watch = StuckWatch(patience_s=20.0)
    assert all(watch.stuck({PLACE: at}, {PLACE: 100}, at * 19.0) is None for at in range(10))


def test_at_the_end_of_the_topic_there_is_nothing_to_wait_for() -> None:
    watch = StuckWatch(patience_s=20.0)
    assert watch.stuck({PLACE: 5}, {PLACE: 1}, 0.0) is None
    assert watch.stuck({PLACE: 5}, {PLACE: 0}, 10.0) is None
    assert watch.stuck({PLACE: 5}, {PLACE: 1}, 25.0) is None  # waiting since just now, not since 0


def test_after_forget_the_time_counts_from_zero() -> None:
    watch = StuckWatch(patience_s=20.0)
    watch.stuck({PLACE: 5}, {PLACE: 1}, 0.0)
    watch.forget()
    assert watch.stuck({PLACE: 5}, {PLACE: 1}, 25.0) is None


def test_a_range_with_gaps_continues_after_its_last_record() -> None:
    got = PartitionRecords("traffic", 0, (Message(3, 0.0, None, b"a", {}), Message(9, 0.0, None, b"b", {})))
    assert (got.first_offset, got.next_offset, got.topic_partition) == (3, 10, PLACE)
