"""The end of a topic, read once: on a broker of its last records alone, and nothing is left behind in a group."""

from __future__ import annotations

import pytest

from agent.clock import HandClock
from agent.demo.broker import Broker
from agent.errors import Retryable
from agent.kafka.consumer import Consumer
from agent.kafka.contract import Outgoing
from agent.kafka.in_memory import MemoryConsumer, MemoryTopic
from agent.traffic.topic_tail import read_tail
from agent.traffic.traffic_sampler import TrafficSampler
from tests.agent.traffic.feeding import ADAPTERS, ALL, events
from tests.kafka_brokers import LEFT_CONNECTING, BrokerWorld, config_for, request


def sampler() -> TrafficSampler:
    return TrafficSampler(ALL, ADAPTERS)


def test_all_records_of_a_short_topic_are_read_with_progress_and_what_is_unreadable_is_counted() -> None:
    topic, steps = MemoryTopic(partitions=2), []
    for partition in (0, 1):
        topic.publish((request(n, ADAPTERS[n % 2]) for n in range(600)), partition)
    topic.publish([Outgoing(b"ticket-router", b"{")], 0)
    tail = read_tail(MemoryConsumer(topic), sampler(), lambda done, total: steps.append((done, total)))
    assert (tail.records, tail.rejected) == (1201, 601)  # the second partition repeats the requests of the first
    assert {interaction.request_id for interaction in tail.interactions} == {f"r-{n}" for n in range(600)}
    assert steps[-1] == (1201, 1201) and len(steps) > 2
    assert topic.committed == {} and topic.members == []


def test_halves_of_requests_are_joined() -> None:
    topic = MemoryTopic()
    topic.publish(events("a", "b"))
    assert len(read_tail(MemoryConsumer(topic), sampler()).interactions) == 2


def test_an_empty_topic_holds_nothing() -> None:
    tail = read_tail(MemoryConsumer(MemoryTopic(partitions=3)), sampler())
    assert (tail.interactions, tail.records, tail.since) == ([], 0, None)


class ATurnASecond(HandClock):
    """Each look at the clock finds it a second later."""

    def steady(self) -> float:
        self.advance(1.0)
        return self.at


def test_a_broker_that_is_away_is_said_so_in_bounded_time() -> None:
    topic = MemoryTopic()
    topic.away = True
    with pytest.raises(Retryable, match="no connection to any broker"):
        read_tail(MemoryConsumer(topic), sampler(), clock=ATurnASecond())
    assert topic.members == []


@LEFT_CONNECTING
@pytest.mark.usefixtures("collected")
@pytest.mark.parametrize("broker", ["tansu"], indirect=True)
def test_on_a_broker_the_last_records_of_each_partition_are_read(broker: Broker) -> None:
    world = BrokerWorld(broker, 2)
    for partition in (0, 1):
        world.publish((request(1000 * partition + n) for n in range(40)), partition)
    config = config_for(broker.bootstrap, world.name, mode="assign", group_id=None)
    tail = read_tail(Consumer(config), sampler(), most=20)
    wanted = {f"r-{1000 * partition + n}" for partition in (0, 1) for n in range(30, 40)}
    assert {interaction.request_id for interaction in tail.interactions} == wanted
    assert tail.records == 20
