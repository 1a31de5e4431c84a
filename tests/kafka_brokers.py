"""What the Kafka suite runs on: the topic in memory, and brokers of two kinds, behind one interface."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any, Protocol

import orjson
import pytest

from agent.demo.broker import Broker
from agent.kafka.client import Config, ensure_topic, publish
from agent.kafka.consumer import Consumer
from agent.kafka.contract import Outgoing, TopicConsumer
from agent.kafka.in_memory import MemoryConsumer, MemoryTopic

_numbers = itertools.count()

# kafka-python leaves a socket to the collector that was still connecting when its client was closed.
LEFT_CONNECTING = pytest.mark.filterwarnings(
    r"ignore:unclosed <socket.socket fd=\d+, family=2, type=1, proto=6, laddr=:ResourceWarning"
)


class World(Protocol):
    """One fresh topic, and consumers of one group that reads it from the beginning."""

    def publish(self, records: Iterable[Outgoing], partition: int | None = None) -> int: ...
    def consumer(self, max_poll_records: int = 500) -> TopicConsumer: ...


class MemoryWorld:
    def __init__(self, partitions: int) -> None:
        self.topic = MemoryTopic(partitions=partitions)

    def publish(self, records: Iterable[Outgoing], partition: int | None = None) -> int:
        return self.topic.publish(records, partition)

    def consumer(self, max_poll_records: int = 500) -> TopicConsumer:
        return MemoryConsumer(self.topic, max_poll_records)


class BrokerWorld:
    def __init__(self, broker: Broker, partitions: int) -> None:
        self.broker, self.name = broker, f"topic-{next(_numbers)}"
        ensure_topic(broker.bootstrap, self.name, partitions, {"max.message.bytes": str(16 * 2**20)})

    def publish(self, records: Iterable[Outgoing], partition: int | None = None) -> int:
        return publish(self.broker.bootstrap, self.name, records, partition)

    def consumer(self, max_poll_records: int = 500) -> TopicConsumer:
        return Consumer(config_for(self.broker.bootstrap, self.name, max_poll_records=max_poll_records))


def config_for(bootstrap: str, topic: str, **settings: Any) -> Config:
    """A consumer's config with the short session that keeps tansu's joins (session / 2) short."""
    usual: dict[str, Any] = {
        "group_id": f"group-of-{topic}",
        "session_timeout_ms": 3000,
        "auto_offset_reset": "earliest",
    }
    return Config(bootstrap_servers=(bootstrap,), topic=topic, **(usual | settings))


def request(number: int, adapter: str = "ticket-router", **changes: Any) -> Outgoing:
    """One good record; changes replace fields of it, None takes one out."""
    body: dict[str, Any] = {
        "schema": "gapwatch.v1",
        "request_id": f"r-{number}",
        "ts": 1_700_000_000.0 + number,
        "adapter": adapter,
        "base": "smollm2",
        "pod": "engine-0",
        "messages": [{"role": "user", "content": f"question {number}"}],
        "output": f"answer {number}",
        "finish_reason": "stop",
        "sampling": {"temperature": 0.7, "seed": 3},
        "usage": {"prompt_tokens": 12, "completion_tokens": 5},
    }
    body = {name: value for name, value in (body | changes).items() if value is not None}
    return Outgoing(adapter.encode(), orjson.dumps(body))
