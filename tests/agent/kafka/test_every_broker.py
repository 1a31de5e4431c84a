"""One contract, three topics: in memory, tansu, and real Kafka where there is one."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping

import pytest

from agent.kafka.contract import Message, Outgoing, TopicConsumer, TopicPartition
from agent.records import RejectionReason, TrafficBatch
from agent.traffic.feed import TrafficFeed
from agent.traffic.reservoir import Config
from agent.traffic.traffic_sampler import TrafficSampler
from tests.kafka_brokers import LEFT_CONNECTING, World, request

pytestmark = [LEFT_CONNECTING, pytest.mark.usefixtures("collected")]
NewWorld = Callable[[int], World]
# Where a hang becomes a failure. Real Kafka lets a second member in within two seconds; tansu needs a round of about
# eight for each try, and one to five tries were seen.
WITHIN_S = 240.0
ALL = Config(rate=1.0, per_adapter_per_minute=100_000)


def feed_of(
    consumer: TopicConsumer,
    counted_upto: Callable[[], Mapping[TopicPartition, int]] = dict,
    flush: Callable[[], bool] = lambda: False,
) -> TrafficFeed:
    sampler = TrafficSampler(ALL, ("ticket-router", "polite-rewriter"))
    feed = TrafficFeed(consumer, sampler, counted_upto, max_pending=10_000, flush=flush)
    feed.open()
    return feed


def read_until(enough: Callable[[list[TrafficBatch]], bool], *feeds: TrafficFeed) -> list[TrafficBatch]:
    """Turn the feeds, committing nothing, until enough has come."""
    batches: list[TrafficBatch] = []
    give_up = time.monotonic() + WITHIN_S
    while not enough(batches):
        assert time.monotonic() < give_up, f"{n_records(batches)} records; {[feed.status for feed in feeds]}"
        batches += [batch for feed in feeds for batch in feed.poll(0.0)]
    return batches


def n_records(batches: list[TrafficBatch]) -> int:
    return sum(batch.records for batch in batches)


def ids(batches: list[TrafficBatch]) -> Counter[str]:
    return Counter(interaction.request_id for batch in batches for interaction in batch.interactions)


def commit_surely(feed: TrafficFeed) -> None:
    """Commits are refused while a group is being shared out; poll and repeat as the loop does."""
    give_up = time.monotonic() + WITHIN_S
    while feed._uncommitted:
        assert time.monotonic() < give_up, feed.status
        feed.commit()
        if feed._uncommitted:
            feed.poll(0.0)


def test_an_empty_topic_can_be_joined_and_gives_what_comes_later(new_world: NewWorld) -> None:
    world = new_world(1)
    feed = feed_of(world.consumer())
    for _ in range(5):
        assert feed.poll(0.0) == []
    world.publish(request(n) for n in range(10))
    batches = read_until(lambda got: n_records(got) >= 10, feed)
    assert ids(batches) == {f"r-{n}": 1 for n in range(10)}
    assert feed.status.up
    feed.close()


def test_batches_are_ranges_in_order_and_hold_what_was_sent(new_world: NewWorld) -> None:
    world = new_world(3)
    world.publish(request(n, ("ticket-router", "polite-rewriter")[n % 2]) for n in range(600))
    feed = feed_of(world.consumer(max_poll_records=100))
    batches = read_until(lambda got: n_records(got) >= 600, feed)
    reached: dict[int, int] = {}
    for batch in batches:
        assert batch.first_offset == reached.get(batch.partition, 0)
        assert batch.next_offset == batch.first_offset + batch.records
        reached[batch.partition] = batch.next_offset
    assert sum(reached.values()) == 600
    assert sum(c.n for batch in batches for c in batch.counts) == 600
    feed.close()


def test_headers_key_and_timestamp_arrive(new_world: NewWorld) -> None:
    world = new_world(1)
    whole = Outgoing(b"ticket-router", b"\x00", {"pod": b"engine-4"}, at=1_700_000_000.5)
    world.publish([whole, Outgoing(b"tombstone", None), Outgoing(None, b"no key")], partition=0)
    consumer = world.consumer()
    consumer.open()
    messages: list[Message] = []
    give_up = time.monotonic() + WITHIN_S
    while len(messages) < 3 and time.monotonic() < give_up:
        messages += [message for got in consumer.poll() for message in got.messages]
    assert messages[0] == Message(0, 1_700_000_000.5, b"ticket-router", b"\x00", {"pod": b"engine-4"})
    assert [(m.key, m.value) for m in messages[1:]] == [(b"tombstone", None), (None, b"no key")]
    consumer.close(1.0)


def test_malformed_records_are_rejected_and_the_partition_goes_on(new_world: NewWorld) -> None:
    world = new_world(1)
    huge = Outgoing(b"ticket-router", b'{"output": "' + b"x" * 5_000_000 + b'"}')
    poison = [Outgoing(b"ticket-router", b"{broken"), request(1, output=None), request(2, "stranger"), huge]
    world.publish([request(0), *poison, Outgoing(b"ticket-router", None), Outgoing(None, b"[]"), request(9)])
    feed = feed_of(world.consumer())
    batches = read_until(lambda got: n_records(got) >= 8, feed)
    assert ids(batches) == {"r-0": 1, "r-9": 1}
    reasons = [rejection.reason for batch in batches for rejection in batch.rejected]
    assert reasons == [
        RejectionReason.NOT_JSON,
        RejectionReason.MISSING_FIELD,
        RejectionReason.UNKNOWN_ADAPTER,
        RejectionReason.TOO_LARGE,
        RejectionReason.EMPTY,
        RejectionReason.WRONG_TYPE,
    ]
    assert sum(c.n for batch in batches for c in batch.counts) == 6  # all with the adapter as key, readable or not
    feed.close()


def test_reading_continues_after_the_commit(new_world: NewWorld) -> None:
    world = new_world(2)
    world.publish(request(n) for n in range(50))
    first = feed_of(world.consumer())
    read_until(lambda got: n_records(got) >= 50, first)
    commit_surely(first)
    first.close()
    world.publish(request(n) for n in range(50, 60))
    second = feed_of(world.consumer())
    batches = read_until(lambda got: n_records(got) >= 10, second)
    assert ids(batches) == {f"r-{n}": 1 for n in range(50, 60)}
    second.close()


def test_a_crash_before_the_commit_reads_again_and_counts_once(new_world: NewWorld) -> None:
    world = new_world(1)
    world.publish(request(n) for n in range(50))
    first = feed_of(world.consumer(max_poll_records=7))
    stored = read_until(lambda got: n_records(got) >= 20, first)
    first.close()
    place = stored[0].topic, stored[0].partition
    second = feed_of(world.consumer(), lambda: {place: stored[-1].next_offset})
    again = read_until(lambda got: n_records(got) >= 50, second)
    assert ids(again) == {f"r-{n}": 1 for n in range(50)}
    assert sum(c.n for batch in [*stored, *again] for c in batch.counts) == 50
    second.close()


def test_paused_reading_keeps_the_membership_and_resumes_where_it_was(new_world: NewWorld) -> None:
    world = new_world(1)
    consumer = world.consumer(max_poll_records=5)
    feed = TrafficFeed(consumer, TrafficSampler(ALL, ("ticket-router",)), dict, max_pending=2)
    feed.open()
    world.publish(request(n) for n in range(40))
    batches = read_until(lambda got: len(got) >= 2, feed)
    held_until = time.monotonic() + 1.0
    while time.monotonic() < held_until:
        assert feed.poll(0.0) == []
    while n_records(batches) < 40:
        commit_surely(feed)
        batches += read_until(lambda got: bool(got), feed)
    assert ids(batches) == {f"r-{n}": 1 for n in range(40)}
    feed.close()


def test_two_members_share_the_partitions_and_the_one_that_stays_takes_all(new_world: NewWorld) -> None:
    world = new_world(4)
    for partition in range(4):
        world.publish((request(n + 100 * partition) for n in range(10)), partition)
    first = feed_of(world.consumer())
    before = read_until(lambda got: n_records(got) >= 40, first)
    commit_surely(first)
    second = feed_of(world.consumer())

    def both_have_some() -> bool:
        return bool(first._consumer.lag()) and bool(second._consumer.lag())

    give_up = time.monotonic() + WITHIN_S
    while not both_have_some():
        assert time.monotonic() < give_up
        assert first.poll(0.0) == second.poll(0.0) == []  # everything was committed: nothing comes twice
    for partition in range(4):
        world.publish((request(n + 100 * partition + 50) for n in range(5)), partition)
    shared = read_until(lambda got: sum(ids(got).values()) >= 20, first, second)
    commit_surely(first)
    commit_surely(second)
    second.close()
    for partition in range(4):
        world.publish((request(n + 100 * partition + 70) for n in range(5)), partition)
    last = read_until(lambda got: n_records(got) >= 20, first)
    assert (len(ids(before)), len(ids(shared)), len(ids(last))) == (40, 20, 20)
    first.close()


def test_revoked_partitions_are_flushed_and_committed_first(new_world: NewWorld) -> None:
    """Nothing was committed by the loop: what the next owner starts from is what was settled on leaving."""
    world = new_world(2)
    for partition in range(2):
        world.publish((request(n + 100 * partition) for n in range(10)), partition)
    flushes: list[float] = []

    def flush() -> bool:
        flushes.append(time.monotonic())
        return True

    first = feed_of(world.consumer(), flush=flush)
    read_until(lambda got: n_records(got) >= 20, first)
    second = feed_of(world.consumer())
    give_up = time.monotonic() + WITHIN_S
    came_again = 0
    while not (first._consumer.lag() and second._consumer.lag()):
        assert time.monotonic() < give_up, (first.status, second.status)
        came_again += n_records(first.poll(0.0)) + n_records(second.poll(0.0))
    assert (len(flushes), came_again) == (1, 0)
    first.close()
    second.close()


def test_the_end_of_a_partition_is_known_once_it_was_read(new_world: NewWorld) -> None:
    world = new_world(2)
    world.publish((request(n) for n in range(7)), partition=0)
    world.publish((request(n) for n in range(3)), partition=1)
    consumer = world.consumer(max_poll_records=2)
    consumer.open()
    read, give_up = 0, time.monotonic() + WITHIN_S
    while read < 10:
        assert time.monotonic() < give_up, consumer.status
        for got in consumer.poll():
            read += len(got.messages)
            assert consumer.ends()[got.topic_partition] == (7, 3)[got.partition]
    consumer.close(1.0)


def test_a_closed_consumer_says_so(new_world: NewWorld) -> None:
    consumer = new_world(1).consumer()
    consumer.open()
    consumer.close(1.0)
    assert not consumer.status.up


def test_a_member_says_what_share_of_its_topic_it_has(new_world: NewWorld) -> None:
    world = new_world(2)
    consumer = world.consumer()
    assert consumer.share() is None
    consumer.open()
    give_up = time.monotonic() + WITHIN_S
    share = consumer.share()
    while share is None or len(share.partitions) < 2:
        assert time.monotonic() < give_up, (share, consumer.status)
        consumer.poll()
        consumer.take_partition_changes()
        share = consumer.share()
    assert share.count == 2 and {number for _, number in share.partitions} == {0, 1}
    consumer.close(5.0)
    assert consumer.share() is None
