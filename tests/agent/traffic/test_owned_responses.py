"""A witness reads all of the traffic, hands on responses of its own bases alone, and of a base that came later ones."""

from __future__ import annotations

import pytest

from agent.kafka.in_memory import MemoryConsumer, MemoryTopic
from agent.records import TrafficBatch
from agent.traffic.feed import TrafficFeed
from agent.traffic.owned_responses import OwnedResponses
from agent.traffic.traffic_sampler import TrafficSampler
from tests.agent.traffic.feeding import ADAPTERS, ALL
from tests.kafka_brokers import request

BASE_OF = dict(zip(ADAPTERS, ("one", "two"), strict=True))


class Read:
    """topic: what is published in turns for either adapter; ``poll``: request ids of what is handed on"""

    def __init__(self, partitions: int = 1) -> None:
        self.topic, self.sent = MemoryTopic(partitions=partitions), 0
        consumer = MemoryConsumer(self.topic)
        feed = TrafficFeed(consumer, TrafficSampler(ALL, ADAPTERS), dict)
        feed.open()
        self.responses = OwnedResponses(feed, BASE_OF, consumer.ends)
        self.batches: list[TrafficBatch] = []

    def publish(self, n: int) -> None:
        self.topic.publish((request(k, ADAPTERS[k % 2]) for k in range(self.sent, self.sent + n)), partition=0)
        self.sent += n

    def poll(self) -> list[str]:
        polled = self.responses.poll(0.0)
        self.batches += polled
        return [interaction.request_id for batch in polled for interaction in batch.interactions]


@pytest.fixture
def read() -> Read:
    """At the end of an empty topic, so that it is known where that is."""
    read = Read()
    read.poll()
    return read


def test_only_responses_of_owned_bases_are_handed_on_and_nothing_is_counted_or_rejected(read: Read) -> None:
    read.responses.own(frozenset({"one"}))
    read.publish(6)
    assert read.poll() == ["r-0", "r-2", "r-4"]
    assert all(batch.counts == () and batch.rejected == () for batch in read.batches)
    assert [batch.next_offset for batch in read.batches] == [6], "what was read may be committed"


def test_without_a_base_nothing_is_handed_on(read: Read) -> None:
    read.publish(4)
    assert read.poll() == []


def test_of_a_base_that_came_only_what_lay_beyond_the_end_by_then_is_handed_on(read: Read) -> None:
    """What lies there its former owner may have scored."""
    read.responses.own(frozenset({"one"}))
    read.publish(4)
    read.responses.own(frozenset({"one", "two"}))
    read.publish(4)
    assert read.poll() == ["r-0", "r-2", "r-4", "r-5", "r-6", "r-7"]


def test_a_base_that_went_and_came_back_begins_behind_what_came_meanwhile(read: Read) -> None:
    read.responses.own(frozenset({"one"}))
    read.responses.own(frozenset())
    read.publish(4)
    read.responses.own(frozenset({"one"}))
    read.publish(2)
    assert read.poll() == ["r-4"]


def test_a_partition_that_was_not_read_yet_when_the_base_came_begins_at_its_end() -> None:
    read = Read()
    read.responses.own(frozenset({"one"}))
    read.publish(4)
    assert read.poll() == []
    read.publish(2)
    assert read.poll() == ["r-4"]


def test_of_a_recreated_topic_everything_is_handed_on(read: Read) -> None:
    read.publish(4)
    read.poll()
    read.responses.own(frozenset({"one"}))
    read.topic.recreate()
    read.poll()
    read.publish(2)
    assert read.poll() == ["r-4"]
