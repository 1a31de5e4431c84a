"""A topic that is deleted and created again, on real Kafka:

its offsets begin at 0, and the store has those of the old one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import pytest
from kafka import KafkaAdminClient

from agent.demo.broker import Broker, Kind
from agent.kafka.client import ensure_topic, publish
from agent.kafka.consumer import Consumer
from agent.kafka.contract import TopicPartition
from agent.records import TrafficBatch
from agent.traffic.feed import TrafficFeed
from agent.traffic.reservoir import Config as SamplingConfig
from agent.traffic.traffic_sampler import TrafficSampler
from tests.kafka_brokers import LEFT_CONNECTING, config_for, request

pytestmark = [LEFT_CONNECTING, pytest.mark.usefixtures("collected")]
WITHIN_S = 60.0


def recreate(broker: Broker, topic: str) -> None:
    """Deleted, and created again once it is gone."""
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
    try:
        admin.delete_topics([topic])
        give_up = time.monotonic() + WITHIN_S
        while topic in admin.list_topics():
            assert time.monotonic() < give_up
            time.sleep(0.05)
    finally:
        admin.close()
    ensure_topic(broker.bootstrap, topic)


@pytest.mark.real_kafka
@pytest.mark.parametrize("reading", [True, False], ids=["under a reader", "while nobody reads"])
def test_a_recreated_topic_is_read_and_counted_from_its_beginning(
    shared_broker: Callable[[Kind], Broker], monkeypatch: pytest.MonkeyPatch, reading: bool
) -> None:
    broker, topic = shared_broker("apache"), f"recreated-{reading}"
    monkeypatch.setattr("agent.kafka.client.METADATA_MS", 500)
    ensure_topic(broker.bootstrap, topic)
    publish(broker.bootstrap, topic, (request(n) for n in range(40)))
    every = TrafficSampler(SamplingConfig(rate=1.0, per_adapter_per_minute=1000), ("ticket-router",))

    def opened(stored: Mapping[TopicPartition, int]) -> TrafficFeed:
        feed = TrafficFeed(Consumer(config_for(broker.bootstrap, topic)), every, lambda: stored)
        feed.open()
        return feed

    def counted(feed: TrafficFeed, wanted: int) -> list[TrafficBatch]:
        batches: list[TrafficBatch] = []
        give_up = time.monotonic() + WITHIN_S
        while sum(count.n for batch in batches for count in batch.counts) < wanted:
            assert time.monotonic() < give_up, feed.status
            batches += feed.poll(0.0)
            feed.commit()
        return batches

    feed = opened({})
    counted(feed, 40)
    if not reading:
        feed.close()
    recreate(broker, topic)
    publish(broker.bootstrap, topic, (request(n) for n in range(100, 107)))
    feed = feed if reading else opened({(topic, 0): 40})
    batches = counted(feed, 7)
    assert [interaction.offset for batch in batches for interaction in batch.fresh] == list(range(7))
    assert [batch.topic_recreated for batch in batches if batch.first_offset == 0] == [True]
    assert "recreated" in feed.status.why
    feed.close()
