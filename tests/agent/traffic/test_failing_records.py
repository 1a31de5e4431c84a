"""A record that the program fails on is set aside after some tries; what is not a record's fault sets none aside."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from structlog.testing import capture_logs

from agent.errors import Refused, Retryable
from agent.kafka.contract import PartitionRecords
from agent.kafka.in_memory import MemoryConsumer, MemoryTopic
from agent.records import RejectionReason, TrafficBatch
from agent.traffic.failing_records import TRIES
from agent.traffic.feed import TrafficFeed
from agent.traffic.traffic_sampler import Sampled, TrafficSampler
from tests.agent.traffic.feeding import ADAPTERS, ALL, counted
from tests.kafka_brokers import request


@dataclass
class Fed:
    """A feed over ten records of one partition. errors: offset -> what its record raises; tried: of each try the
    offsets"""

    errors: dict[int, Exception]
    topic: MemoryTopic = field(default_factory=MemoryTopic)
    tried: list[list[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        fed = self

        class Failing(TrafficSampler):
            def __call__(self, records: PartitionRecords, *given: Any) -> Sampled:
                offsets = [message.offset for message in records.messages]
                fed.tried.append(offsets)
                for offset in offsets:
                    if offset in fed.errors:
                        raise fed.errors[offset]
                return super().__call__(records, *given)

        self.publish(range(10))
        self.feed = TrafficFeed(MemoryConsumer(self.topic), Failing(ALL, ADAPTERS), dict)
        self.feed.open()

    def publish(self, numbers: range) -> None:
        self.topic.publish([request(number) for number in numbers], 0)

    def polls(self, count: int) -> list[TrafficBatch]:
        """What the loop gets of so many, each of which may raise."""
        batches: list[TrafficBatch] = []
        for _ in range(count):
            try:
                batches += self.feed.poll(5.0)
            except Exception as error:
                assert error in self.errors.values()
        return batches


def test_the_records_that_fail_are_set_aside_and_all_others_are_counted_once_and_in_order() -> None:
    fed = Fed({4: KeyError("a customer's name"), 7: KeyError("another")})
    assert fed.polls(TRIES - 1) == []
    with capture_logs() as lines:
        batches = fed.polls(1)
    assert counted(batches) == {"ticket-router": 8}
    ends = [batch.next_offset for batch in batches]
    assert [batch.first_offset for batch in batches] == [0, *ends[:-1]] and ends[-1] == 10
    rejected = [record for batch in batches for record in batch.rejected]
    assert [(record.topic, record.partition, record.offset) for record in rejected] == [
        ("traffic", 0, 4),
        ("traffic", 0, 7),
    ]
    assert {(record.reason, record.detail) for record in rejected} == {(RejectionReason.FAILED, "KeyError")}
    said = {"event": "record_set_aside", "log_level": "error", "topic": "traffic", "partition": 0, "error": "KeyError"}
    assert lines == [said | {"offset": at} for at in (4, 7)]
    fed.feed.commit()
    assert list(fed.topic.committed.values()) == [10]
    fed.publish(range(10, 14))
    assert counted(fed.polls(1)) == {"ticket-router": 4} and sum(batch.records for batch in batches) == 10


def test_what_fails_on_fewer_tries_is_only_tried_again() -> None:
    fed = Fed({4: KeyError("for a moment")})
    fed.polls(TRIES - 1)
    fed.errors.clear()
    (batch,) = fed.polls(1)
    assert counted([batch]) == {"ticket-router": 10} and batch.rejected == ()


@pytest.mark.parametrize(
    "error",
    [Retryable("clickhouse", "away"), Refused("kafka", 1, "2"), OSError("no disk"), TimeoutError(), MemoryError()],
)
def test_what_a_part_around_it_raises_is_never_a_records_fault(error: Exception) -> None:
    fed = Fed({4: error})
    assert fed.polls(4 * TRIES) == []
    assert fed.tried == [list(range(10))] * 4 * TRIES
    fed.errors.clear()
    assert counted(fed.polls(1)) == {"ticket-router": 10}


def test_another_error_of_the_same_records_is_tried_as_often() -> None:
    fed = Fed({4: KeyError()})
    fed.polls(TRIES - 1)
    fed.errors[4] = ValueError()
    assert fed.polls(TRIES - 1) == []
    assert [record.detail for batch in fed.polls(1) for record in batch.rejected] == ["ValueError"]


def test_a_poll_of_nothing_but_such_records_is_set_aside_at_once_and_the_next_one_is_tried_anew() -> None:
    fed = Fed(dict.fromkeys(range(20), KeyError()))
    assert fed.polls(TRIES - 1) == []
    assert len(fed.polls(1)) == 10
    fed.feed.commit()
    fed.publish(range(10, 20))
    assert fed.polls(TRIES - 1) == [] and len(fed.polls(1)) == 10
