"""Test helpers: a feed over the in-memory topic, records for it, and sums of the counts that it returns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from agent.kafka.contract import Outgoing, TopicPartition
from agent.kafka.in_memory import MemoryConsumer, MemoryTopic
from agent.records import TrafficBatch
from agent.traffic.feed import TrafficFeed
from agent.traffic.reservoir import Config
from agent.traffic.traffic_sampler import TrafficSampler
from tests.agent.traffic.formats.records import example
from tests.kafka_brokers import request

ADAPTERS = ("ticket-router", "polite-rewriter")
ALL = Config(rate=1.0, per_adapter_per_minute=1000)


def feed_over(
    topic: MemoryTopic, sampling: Config = ALL, at_once: int = 500, form: str = "auto", **settings: Any
) -> TrafficFeed:
    sampler = TrafficSampler(sampling, ADAPTERS, form)
    feed = TrafficFeed(MemoryConsumer(topic, at_once), sampler, **({"counted_upto": dict} | settings))
    feed.open()
    return feed


def headed(number: int, at: float | None = None, **headers: str) -> Outgoing:
    """One good record with headers, and a timestamp of its own."""
    good = request(number)
    return Outgoing(good.key, good.value, {name: text.encode() for name, text in headers.items()}, at)


def counted(batches: Iterable[TrafficBatch]) -> Counter[str]:
    return sum((Counter({c.adapter: c.n}) for batch in batches for c in batch.counts), Counter())


def store_of(batches: Iterable[TrafficBatch]) -> Mapping[TopicPartition, int]:
    """What a store would answer that holds these."""
    ends: dict[TopicPartition, int] = {}
    for batch in batches:
        place = batch.topic, batch.partition
        ends[place] = max(ends.get(place, 0), batch.next_offset)
    return ends


def events(*ids: str, keyed: bool = True) -> Iterator[Outgoing]:
    """Request and response of each, the requests first."""
    halves = example("kserve")
    for half in halves:
        for name in ids:
            yield Outgoing(b"ticket-router" if keyed else None, half.value, {**half.headers, "ce_id": name.encode()})
