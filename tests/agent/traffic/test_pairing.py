"""A request and its response as separate records: one interaction and one count, in any order and partition."""

from __future__ import annotations

import numpy as np
import pytest

from agent.kafka.in_memory import MemoryTopic
from agent.records import RejectionReason
from agent.traffic.reservoir import Config, RankHash, below
from tests.agent.traffic.feeding import counted, events, feed_over


@pytest.mark.parametrize("keyed", [True, False])
def test_a_request_and_its_response_are_one_interaction_and_one_count(keyed: bool) -> None:
    topic = MemoryTopic()
    topic.publish(events(*(f"id-{n}" for n in range(20)), keyed=keyed))
    feed = feed_over(topic, at_once=7)
    batches = [batch for _ in range(6) for batch in feed.poll(0.0)]
    kept = [interaction for batch in batches for interaction in batch.interactions]
    assert sorted(interaction.request_id for interaction in kept) == sorted(f"id-{n}" for n in range(20))
    assert {interaction.output for interaction in kept} == {"shipping"}
    assert counted(batches) == {"ticket-router": 20}


def test_both_halves_of_a_sampled_request_are_kept() -> None:
    topic = MemoryTopic()
    topic.publish(events(*(f"id-{n}" for n in range(200))))
    (batch,) = feed_over(topic, Config(rate=0.2, per_adapter_per_minute=1000, salt="s")).poll(0.0)
    wanted = np.flatnonzero(below(RankHash("s").of_ids(f"id-{n}".encode() for n in range(200)), 0.2)).tolist()
    assert [interaction.request_id for interaction in batch.interactions] == [f"id-{n}" for n in wanted]
    assert (batch.opened, batch.rejected) == (2 * len(wanted), ())


def test_a_request_without_its_response_is_rejected_in_time() -> None:
    topic = MemoryTopic()
    topic.publish(list(events("alone", "id-1"))[:1])
    feed = feed_over(topic)
    assert [batch.rejected for batch in feed.poll(0.0)] == [()]
    topic.publish(events("id-2"))
    (batch,) = feed.poll(1000.0)
    assert [(rejection.offset, rejection.reason) for rejection in batch.rejected] == [(0, RejectionReason.UNPAIRED)]
    assert [interaction.request_id for interaction in batch.interactions] == ["id-2"]


def test_a_half_is_given_up_in_time_also_where_the_clock_was_set_back_by_a_day() -> None:
    topic = MemoryTopic()
    topic.publish(list(events("alone", "id-1"))[:1])
    feed = feed_over(topic)
    assert [batch.rejected for batch in feed.poll(100_000.0)] == [()]
    topic.publish(events("id-2"))
    (batch,) = feed.poll(13_600.0)
    assert [(rejection.offset, rejection.reason) for rejection in batch.rejected] == [(0, RejectionReason.UNPAIRED)]
    assert [interaction.request_id for interaction in batch.interactions] == ["id-2"]


@pytest.mark.parametrize(
    ("mark", "fresh"), [(0, True), (1, True), (2, False)], ids=["neither was read", "one of them", "both"]
)
@pytest.mark.parametrize("response_first", [False, True])
def test_a_pair_is_redelivered_when_both_halves_lie_below_the_watermark(
    mark: int, fresh: bool, response_first: bool
) -> None:
    """Whichever came first: what was whole only above the mark was never scored."""
    topic = MemoryTopic()
    topic.publish(list(events("id"))[:: -1 if response_first else 1])
    (batch,) = feed_over(topic, counted_upto=lambda: {("traffic", 0): mark}).poll(0.0)
    assert [not interaction.redelivered for interaction in batch.interactions] == [fresh]


@pytest.mark.parametrize("marks", [(1, 1), (0, 1), (1, 0)])
def test_halves_in_two_partitions_are_compared_with_the_watermarks_of_both(marks: tuple[int, int]) -> None:
    topic = MemoryTopic(partitions=2)
    for partition, half in enumerate(events("id")):
        topic.publish([half], partition)
    stored = {("traffic", partition): mark for partition, mark in enumerate(marks)}
    batches = feed_over(topic, counted_upto=lambda: stored).poll(0.0)
    assert [interaction.redelivered for batch in batches for interaction in batch.interactions] == [marks == (1, 1)]
