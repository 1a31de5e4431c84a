"""Which bases are whose: shared by partitions, handed over when a witness goes, and kept while nobody can say."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from agent.clock import Clock, HandClock
from agent.demo.broker import Broker, Kind
from agent.kafka.client import Config, ensure_topic
from agent.kafka.consumer import Consumer
from agent.kafka.in_memory import MemoryConsumer, MemoryTopic
from agent.kafka.owned_bases import POLL_EVERY_S, OwnedBases
from tests.conftest import REAL
from tests.kafka_brokers import LEFT_CONNECTING

BASES = ("a", "b", "c")


@dataclass
class Witness:
    owned: OwnedBases
    clock: HandClock
    lost: list[frozenset[str]] = field(default_factory=list)

    def polled(self) -> frozenset[str]:
        """Until a loss is confirmed too."""
        gained: frozenset[str] = frozenset()
        for _ in range(3):
            gained |= self.owned.poll()
            self.clock.advance(POLL_EVERY_S)
        return gained


@pytest.fixture
def topic() -> MemoryTopic:
    return MemoryTopic("gapwatch.replays", partitions=2)


def witness(topic: MemoryTopic) -> Witness:
    clock = HandClock(1000.0)
    made = Witness(OwnedBases(MemoryConsumer(topic), topic.name, BASES, clock), clock)
    made.owned.on_lost = made.lost.append
    made.owned.open()
    return made


def test_the_base_at_position_i_belongs_to_partition_i_modulo_their_number(topic: MemoryTopic) -> None:
    alone = witness(topic)
    assert alone.owned.status == (True, "waits for its share of the bases, by topic gapwatch.replays")
    assert alone.polled() == {"a", "b", "c"} == alone.owned.owned
    assert alone.owned.status == (True, "owns a, b, c, by partition 0, 1 of 2 of gapwatch.replays")
    assert alone.polled() == frozenset() and alone.lost == []


def test_a_second_witness_takes_its_share_and_gives_it_back_when_it_goes(topic: MemoryTopic) -> None:
    first = witness(topic)
    first.polled()
    second = witness(topic)
    first.polled()
    assert second.polled() == {"b"} and first.owned.owned == {"a", "c"}
    assert frozenset().union(*first.lost) >= {"b"}
    second.owned.close()
    assert first.polled() >= {"b"} and first.owned.owned == {"a", "b", "c"}


def test_more_witnesses_than_partitions_are_well_and_own_nothing(topic: MemoryTopic) -> None:
    three = [witness(topic) for _ in range(3)]
    for each in three:
        each.polled()
    assert [each.owned.owned for each in three] == [{"a", "c"}, {"b"}, frozenset()]
    words = "owns no base: other witnesses have the partitions of gapwatch.replays (2)"
    assert three[2].owned.status == (True, words)


def test_a_witness_keeps_its_bases_while_the_broker_is_away(topic: MemoryTopic) -> None:
    """Nobody can say whether the broker is away from all: then nobody else would replay them."""
    alone = witness(topic)
    alone.polled()
    topic.away = True
    assert alone.polled() == frozenset() and alone.owned.owned == {"a", "b", "c"} and alone.lost == []
    ok, words = alone.owned.status
    assert not ok and "no connection to any broker; keeps a, b, c meanwhile" in words


def test_without_the_topic_it_says_who_creates_it() -> None:
    without = witness(MemoryTopic("gapwatch.replays", partitions=0))
    assert without.polled() == frozenset()
    words = "no topic gapwatch.replays to share out bases by: `gapwatch migrate` with this configuration creates it"
    assert without.owned.status == (False, words)


@LEFT_CONNECTING
@pytest.mark.usefixtures("collected")
@pytest.mark.parametrize("kind", [REAL])
def test_on_kafka_a_missing_topic_is_told_and_taken_up_once_it_is_there_and_a_stayer_loses_nothing(
    shared_broker: Callable[[Kind], Broker], kind: Kind
) -> None:
    """No records, and that for longer than a partition with records waiting may stand still: nothing is stuck."""
    bootstrap, name = shared_broker(kind).bootstrap, "replays-of-owned-bases"
    first, second = (on_kafka(bootstrap, name, pod) for pod in ("w-0", "w-1"))
    first.owned.open()
    until(first, lambda: "`gapwatch migrate` with this configuration creates it" in first.owned.status[1])
    assert not first.owned.status[0]
    ensure_topic(bootstrap, name, 2)
    until(first, lambda: first.owned.owned == set(BASES))
    assert first.owned.status == (True, f"owns a, b, c, by partition 0, 1 of 2 of {name}")
    second.owned.open()
    until(second, lambda: bool(second.owned.owned), first)
    assert first.owned.owned | second.owned.owned == set(BASES) and not first.owned.owned & second.owned.owned
    assert first.lost == [second.owned.owned], "and none of those that stayed, not even for an instant"
    second.owned.close(5.0)
    until(first, lambda: first.owned.owned == set(BASES))
    first.owned.close(5.0)


def on_kafka(bootstrap: str, name: str, pod: str) -> Witness:
    settings = {"bootstrap_servers": bootstrap, "topic": "t", "replays_topic": name, "session_timeout_ms": 30_000}
    config = Config.model_validate(settings | {"group_id": name, "group_instance_id": pod})
    consumer = Consumer(config.of_ownership(), in_steps=True)
    made = Witness(OwnedBases(consumer, name, BASES, Clock()), HandClock())
    made.owned.on_lost = made.lost.append
    return made


def until(witness: Witness, happened: Callable[[], bool], *others: Witness) -> None:
    give_up = time.monotonic() + 60.0
    while not happened():
        assert time.monotonic() < give_up, [each.owned.status for each in (witness, *others)]
        for each in (witness, *others):
            each.owned.poll()
        time.sleep(0.02)
