"""Brokers for the Kafka suite: tansu everywhere, and real Apache Kafka where KAFKA_HOME names a distribution."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from agent.demo.broker import Broker, Kind, apache_available, start_broker
from tests.kafka_brokers import BrokerWorld, MemoryWorld, World

REAL = pytest.param("apache", marks=pytest.mark.real_kafka)
# Folders whose files take minutes each, because real models answer in them.
SLOW = ("tests/end_to_end/", "tests/examples/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take minutes come first: one that begins last would keep one process busy while the others wait."""
    items.sort(key=lambda item: not item.nodeid.startswith(SLOW))


def need_apache() -> None:
    """Skip, by name, where there is no real Kafka."""
    if not apache_available():
        pytest.skip("no real Kafka: KAFKA_HOME is not set to a folder with libs/, or there is no java")


@pytest.fixture
def collected() -> Iterator[None]:
    """What the Kafka client leaves to the collector is collected here, under this test's filters and no other's."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def shared_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Kind], Broker]]:
    """One broker of each kind for all tests that leave it alive; started when first asked for."""
    with ExitStack() as opened:
        running: dict[str, Broker] = {}

        def give(kind: Kind) -> Broker:
            if kind == "apache":
                need_apache()
            if kind not in running:
                running[kind] = opened.enter_context(start_broker(tmp_path_factory.mktemp(kind), kind=kind))
            return running[kind]

        yield give


@pytest.fixture(params=["tansu", REAL])
def broker(request: pytest.FixtureRequest, shared_broker: Callable[[Kind], Broker]) -> Broker:
    """A running broker that other tests use too: take a topic of your own, and leave it running."""
    return shared_broker(request.param)


@pytest.fixture(params=["memory", "tansu", REAL])
def new_world(request: pytest.FixtureRequest, shared_broker: Callable[[Kind], Broker]) -> Callable[[int], World]:
    """Makes a fresh topic with so many partitions: in memory, on tansu, on real Kafka."""
    if request.param == "memory":
        return MemoryWorld
    running = shared_broker(request.param)
    return lambda partitions: BrokerWorld(running, partitions)
