"""What the feed commits and what is read again: crashes, recreated topics, revoked partitions, sinks that are away."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import pairwise

import pytest
from structlog.testing import capture_logs

from agent.clock import HandClock
from agent.errors import Retryable
from agent.kafka.contract import TopicPartition
from agent.kafka.in_memory import MemoryTopic
from tests.agent.traffic.feeding import ADAPTERS, counted, feed_over, store_of
from tests.kafka_brokers import request


def test_nothing_is_forgotten_before_commit() -> None:
    topic = MemoryTopic()
    topic.publish(request(n) for n in range(10))
    feed = feed_over(topic)
    feed.poll(0.0)
    assert topic.committed == {}
    feed.commit()
    assert topic.committed == {("traffic", 0): 10}


@pytest.mark.parametrize("first_cut, second_cut", [(7, 7), (7, 4), (4, 7), (1, 500)])
def test_after_a_crash_records_come_again_and_are_counted_once(first_cut: int, second_cut: int) -> None:
    """The batches need not be cut alike: the second agent knows from the store how far was counted."""
    topic = MemoryTopic()
    topic.publish(request(n, ADAPTERS[n % 2]) for n in range(40))
    before = feed_over(topic, at_once=first_cut)
    stored = [batch for _ in range(3) for batch in before.poll(0.0)]
    before.close()  # durable, but the crash came before the commit
    after = feed_over(topic, at_once=second_cut, counted_upto=lambda: store_of(stored), max_pending=1000)
    again = [batch for _ in range(50) for batch in after.poll(0.0)]
    assert sum(batch.records for batch in again) == 40
    assert counted(stored + again) == {"ticket-router": 20, "polite-rewriter": 20}
    # What evidence is drawn from: each once, those of the first agent's batches by the first agent.
    fresh = Counter(interaction.request_id for batch in stored + again for interaction in batch.fresh)
    assert fresh == {f"r-{n}": 1 for n in range(40)}
    ranges = sorted((c.first_offset, c.last_offset) for batch in stored + again for c in batch.counts)
    assert all(a == b or a[1] < b[0] for a, b in pairwise(ranges))


def test_the_same_range_has_the_same_token_after_a_crash_and_in_a_recreated_topic_another() -> None:
    clock = HandClock(700.0)
    topic = MemoryTopic(clock=clock)
    topic.publish(request(n) for n in range(10))
    first = feed_over(topic)
    token = first.poll(0.0)[0].token
    first.close()
    second = feed_over(topic)
    assert second.poll(5.0)[0].token == token == "traffic:0:0-9:700000:v2"
    second.close()
    clock.advance(100.0)
    topic.recreate()
    topic.publish(request(n) for n in range(10))
    assert feed_over(topic).poll(5.0)[0].token == "traffic:0:0-9:800000:v2"


def test_a_topic_recreated_while_nobody_read_is_read_from_its_beginning() -> None:
    """The store remembers the old topic's offsets, and the saved evidence too: both lie beyond the new one's end."""
    topic = MemoryTopic(partitions=2)
    topic.publish((request(n) for n in range(5)), partition=0)
    topic.publish((request(n) for n in range(5, 8)), partition=1)
    old = {("traffic", 0): 900, ("traffic", 1): 2}
    judged = {("traffic", 0, "ticket-router"): 3, ("traffic", 1, "ticket-router"): 1}
    feed = feed_over(topic, counted_upto=lambda: old, judged=judged)
    with capture_logs() as own_log:
        recreated, unchanged = feed.poll(0.0)
    assert own_log == [
        {
            "event": "topic_recreated",
            "topic": "traffic",
            "partition": 0,
            "read_before_up_to": 900,
            "log_level": "warning",
        }
    ]
    assert (recreated.topic_recreated, counted([recreated]), len(recreated.fresh)) == (True, {"ticket-router": 5}, 5)
    assert (unchanged.topic_recreated, counted([unchanged])) == (False, {"ticket-router": 1})
    assert [interaction.offset for interaction in unchanged.fresh] == [2]
    assert feed.status == (True, "traffic:0 was deleted and recreated, and is read from its beginning")
    topic.publish((request(n) for n in range(10, 910)), partition=0)
    later = [batch for _ in range(3) for batch in feed.poll(0.0)]
    assert (counted(later), any(batch.topic_recreated for batch in later)) == ({"ticket-router": 900}, False)
    assert feed.status == (True, "")


def test_what_the_health_server_reads_from_its_own_thread_is_replaced_and_never_changed() -> None:
    topic, seen = MemoryTopic(), list[Mapping[TopicPartition, int]]()
    topic.publish(request(n) for n in range(5))

    def counted_upto() -> Mapping[TopicPartition, int]:
        """Asked in the middle of a poll, before it finds that the topic is another one."""
        seen.append(feed._recreated)
        return {("traffic", 0): 7}

    feed = feed_over(topic, counted_upto=counted_upto)
    feed.poll(0.0)
    assert (seen, feed._recreated) == ([{}], {("traffic", 0): 7})


def test_a_topic_recreated_under_a_reader_is_read_from_its_beginning_and_committed_there() -> None:
    topic = MemoryTopic()
    topic.publish(request(n) for n in range(50))
    feed = feed_over(topic)
    feed.poll(0.0)
    topic.recreate()
    topic.publish(request(n) for n in range(100, 108))
    (batch,) = feed.poll(0.0)
    assert (batch.topic_recreated, counted([batch]), len(batch.fresh)) == (True, {"ticket-router": 8}, 8)
    feed.commit()
    assert topic.committed == {("traffic", 0): 8}, "not where the old one ended"


def test_what_the_saved_evidence_holds_is_not_fresh_though_the_store_never_had_it() -> None:
    """By adapter: one that waits for its turn loses nothing to one whose turn came first."""
    topic = MemoryTopic()
    topic.publish(request(n, ADAPTERS[n % 2]) for n in range(8))
    judged = {("traffic", 0, ADAPTERS[0]): 5, ("traffic", 0, ADAPTERS[1]): 2}
    (batch,) = feed_over(topic, judged=judged).poll(0.0)
    assert [interaction.offset for interaction in batch.fresh] == [3, 5, 6, 7]
    assert counted([batch]) == {ADAPTERS[0]: 4, ADAPTERS[1]: 4}, "the store counts what it does not hold"


def test_too_many_uncommitted_batches_hold_reading_back() -> None:
    topic = MemoryTopic()
    topic.publish(request(n) for n in range(10))
    feed = feed_over(topic, at_once=1, max_pending=3)
    read = [len(feed.poll(0.0)) for _ in range(6)]
    assert read == [1, 1, 1, 0, 0, 0]
    assert feed.status == (True, "waiting for the sinks")
    feed.commit()
    assert len(feed.poll(0.0)) == 1
    assert feed.status == (True, "")


def test_a_refused_commit_is_repeated() -> None:
    topic = MemoryTopic()
    topic.publish(request(n) for n in range(3))
    feed = feed_over(topic)
    feed.poll(0.0)
    topic.away = True
    feed.commit()
    assert (topic.committed, feed.poll(0.0), feed.status.up) == ({}, [], False)
    topic.away = False
    feed.commit()
    assert topic.committed == {("traffic", 0): 3}


def test_without_word_from_the_store_nothing_is_handed_out_and_nothing_is_lost() -> None:
    topic = MemoryTopic()
    topic.publish(request(n) for n in range(3))
    away = [True]

    def counted_upto() -> Mapping[TopicPartition, int]:
        if away[0]:
            raise Retryable("clickhouse", "restarting")
        return {("traffic", 0): 2}

    feed = feed_over(topic, counted_upto=counted_upto)
    assert (feed.poll(0.0), feed.poll(0.0)) == ([], [])
    assert feed.status == (True, "waiting for the store to report how far it has counted")
    assert feed.not_read == feed.status.why
    away[0] = False
    (batch,) = feed.poll(0.0)
    assert (batch.records, counted([batch])) == (3, {"ticket-router": 1})


def test_a_lost_partition_is_not_committed_and_its_next_owner_reads_it_again() -> None:
    topic = MemoryTopic(partitions=2)
    topic.publish((request(n) for n in range(4)), partition=0)
    topic.publish((request(n) for n in range(4)), partition=1)
    first = feed_over(topic)
    stored = first.poll(0.0)
    second = feed_over(topic, counted_upto=lambda: store_of(stored))
    first.commit()  # refused: the group is rebalancing
    kept, moved = first.poll(0.0), second.poll(0.0)
    assert {b.partition for b in kept} | {b.partition for b in moved} == {0, 1}
    first.commit()
    second.commit()
    assert topic.committed == {("traffic", 0): 4, ("traffic", 1): 4}
    assert counted(stored + kept + moved) == {"ticket-router": 8}


def test_revoked_partitions_are_flushed_and_committed_first() -> None:
    topic = MemoryTopic(partitions=2)
    topic.publish((request(n) for n in range(4)), partition=0)
    topic.publish((request(n + 10) for n in range(6)), partition=1)
    flushed: list[int] = []
    first = feed_over(topic, flush=lambda: flushed.append(1) or True)  # type: ignore[func-returns-value]
    assert len(first.poll(0.0)) == 2
    second = feed_over(topic)
    first.poll(0.0)
    assert (flushed, topic.committed) == ([1], {("traffic", 0): 4, ("traffic", 1): 6})
    assert second.poll(0.0) == []  # nothing comes twice


def test_partitions_revoked_while_the_sinks_are_away_are_not_committed() -> None:
    topic = MemoryTopic()
    topic.publish(request(n) for n in range(4))
    first = feed_over(topic, flush=lambda: False)
    first.poll(0.0)
    feed_over(topic)
    first.poll(0.0)
    assert topic.committed == {}
