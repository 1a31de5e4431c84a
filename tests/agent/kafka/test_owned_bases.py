"""Which bases are whose: shared by partitions, handed over when a witness goes, and kept while nobody can say."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from agent.clock import Clock, HandClock
from agent.demo.broker import Broker, Kind
from agent.kafka.client import Config, ensure_topic
from agent.kafka.consumer import Consumer
from agent.kafka.in_memory import MemoryConsumer, MemoryTopic
from agent.kafka.owned_bases import POLL_EVERY_S, RULE, OwnedBases, shared_out
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


def names(seed: int, count: int) -> list[str]:
    rng = random.Random(seed)
    return [f"org/model-{rng.randrange(10**9)}" for _ in range(count)]


def test_the_rule_is_the_one_that_witnesses_of_this_name_share_by() -> None:
    """What belongs where is part of what is stored: another answer asks for another ``RULE``."""
    assert RULE == "gapwatch-rendezvous"
    bases = frozenset({"SmolLM2-135M-Instruct", "meta-llama/Llama-3.1-8B", "größer", "b", "a"})
    of_two = {"SmolLM2-135M-Instruct": 0, "größer": 0, "a": 1, "b": 1, "meta-llama/Llama-3.1-8B": 1}
    of_four = {"SmolLM2-135M-Instruct": 0, "meta-llama/Llama-3.1-8B": 1, "a": 2, "b": 3, "größer": 3}
    assert [shared_out(bases, count) for count in (0, 2, 4)] == [{}, of_two, of_four]


@pytest.mark.parametrize("count", range(1, 5))
@pytest.mark.parametrize("bases", range(1, 7))
def test_no_partition_has_more_than_one_base_more_than_another(bases: int, count: int) -> None:
    for seed in range(50):
        shared = shared_out(frozenset(names(seed, bases)), count)
        loads = [list(shared.values()).count(at) for at in range(count)]
        assert sum(loads) == bases and max(loads) - min(loads) <= 1


def test_a_base_that_is_added_moves_hardly_any_other() -> None:
    """With as many partitions as bases, and with one more for it; by position in the list it moved half of them.

    A hundred sets of six. By 4,000 sets of other names the number that moves has a mean of 1.09 and 1.54, and a
    standard deviation of .96 at most.
    """
    moved: dict[int, list[int]] = {6: [], 7: []}
    for seed in range(100):
        *before, added = names(seed, 7)
        for count, numbers in moved.items():
            old, new = shared_out(frozenset(before), 6), shared_out(frozenset([*before, added]), count)
            numbers.append(sum(old[base] != new[base] for base in before))
    assert sum(moved[6]) / 100 == pytest.approx(1.09, abs=4 * 0.096)
    assert sum(moved[7]) / 100 == pytest.approx(1.54, abs=4 * 0.096)


def test_the_order_of_the_configuration_does_not_matter(topic: MemoryTopic) -> None:
    other = OwnedBases(MemoryConsumer(topic), topic.name, BASES[::-1], HandClock())
    other.open()
    first = witness(topic)
    first.polled()
    for _ in range(3):
        other.poll()
    assert first.owned.owned == {"b", "c"}


def test_a_witness_owns_the_bases_of_its_partitions(topic: MemoryTopic) -> None:
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
    assert second.polled() == {"b", "c"} and first.owned.owned == {"a"}
    assert frozenset().union(*first.lost) >= {"b", "c"}
    second.owned.close()
    assert first.polled() >= {"b", "c"} and first.owned.owned == {"a", "b", "c"}


def test_more_witnesses_than_partitions_are_well_and_own_nothing(topic: MemoryTopic) -> None:
    three = [witness(topic) for _ in range(3)]
    for each in three:
        each.polled()
    assert [each.owned.owned for each in three] == [{"a"}, {"b", "c"}, frozenset()]
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


@LEFT_CONNECTING
@pytest.mark.usefixtures("collected")
@pytest.mark.parametrize("kind", [REAL])
def test_beside_a_witness_that_shares_by_another_rule_none_is_owned_until_it_has_ended(
    shared_broker: Callable[[Kind], Broker], kind: Kind
) -> None:
    """An earlier version shared by the position in the list, under the protocol name that the client has for it."""
    bootstrap, name = shared_broker(kind).bootstrap, "replays-of-two-versions"
    ensure_topic(bootstrap, name, 3)
    earlier, later = on_kafka(bootstrap, name, "w-0", "cooperative-sticky"), on_kafka(bootstrap, name, "w-1")
    earlier.owned.open()
    until(earlier, lambda: earlier.owned.owned == set(BASES))
    later.owned.open()
    until(later, lambda: "share the bases by another rule until they end" in later.owned.status[1], earlier)
    assert not later.owned.status[0] and "owns no base meanwhile" in later.owned.status[1]
    assert later.owned.owned == frozenset() and earlier.owned.owned == set(BASES) and not earlier.lost
    earlier.owned.close(5.0)
    until(later, lambda: later.owned.owned == set(BASES))
    later.owned.close(5.0)


def on_kafka(bootstrap: str, name: str, pod: str, rule: str = RULE) -> Witness:
    settings = {"bootstrap_servers": bootstrap, "topic": "t", "replays_topic": name, "session_timeout_ms": 30_000}
    config = Config.model_validate(settings | {"group_id": name, "group_instance_id": pod})
    consumer = Consumer(config.of_ownership(), rule=rule)
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
