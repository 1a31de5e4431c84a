"""The feed over the in-memory topic: counting and sampling. tests/agent/kafka/test_every_broker.py has the brokers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from agent.kafka.contract import Outgoing, PartitionRecords
from agent.kafka.in_memory import MemoryConsumer, MemoryTopic
from agent.records import RejectionReason
from agent.traffic.feed import TrafficFeed
from agent.traffic.reservoir import Config, RankHash, below
from agent.traffic.traffic_sampler import Sampled, TrafficSampler
from tests.agent.traffic.feeding import ADAPTERS, ALL, counted, feed_over, headed
from tests.kafka_brokers import request


def test_all_are_counted_and_only_the_sample_is_opened() -> None:
    topic = MemoryTopic()
    topic.publish(request(n) for n in range(400))
    feed = feed_over(topic, Config(rate=0.1, per_adapter_per_minute=1000, salt="s"))
    (batch,) = feed.poll(0.0)
    wanted = np.flatnonzero(below(RankHash("s").of_offsets("traffic", 0, np.arange(400)), 0.1))
    assert counted([batch]) == {"ticket-router": 400}
    assert [interaction.offset for interaction in batch.interactions] == wanted.tolist()
    assert batch.opened == len(wanted) < 80


def test_where_a_header_has_the_request_id_it_decides_wherever_the_record_lies() -> None:
    topic = MemoryTopic(partitions=2)
    for partition in (0, 1):
        topic.publish((headed(n, at=61.0 + partition, request_id=f"id-{n}") for n in range(200)), partition)
    batches = feed_over(topic, Config(rate=0.2, per_adapter_per_minute=1000, salt="s")).poll(0.0)
    minutes = np.ones(200, np.uint64)
    wanted = np.flatnonzero(
        below(RankHash("s").of_ids((f"id-{n}".encode() for n in range(200)), minutes), 0.2)
    ).tolist()
    assert 20 < len(wanted) < 60
    assert [one.offset for one in batches[0].interactions] == wanted
    assert [rejection.offset for rejection in batches[1].rejected] == wanted  # produced twice: looked at once
    assert {rejection.reason for rejection in batches[1].rejected} == {RejectionReason.DUPLICATE}


def test_sampling_does_not_depend_on_the_content() -> None:
    """The same keys and offsets with other bodies: the same choice, also where the body is no JSON at all."""
    sampling = Config(rate=0.3, per_adapter_per_minute=30)
    chosen = []
    for bodies in ("long", "broken"):
        topic = MemoryTopic()
        good = request(1, output="word " * 500).value
        topic.publish(Outgoing(b"ticket-router", good if bodies == "long" else b"{") for _ in range(300))
        (batch,) = feed_over(topic, sampling).poll(0.0)
        assert batch.opened == 30
        kept, rejected = ([item.offset for item in items] for items in (batch.interactions, batch.rejected))
        chosen.append(sorted([*kept, *rejected]))
    assert chosen[0] == chosen[1]


def test_counts_are_by_the_records_own_minute_and_header_pod() -> None:
    topic = MemoryTopic()
    topic.publish(
        [
            headed(0, at=60.0, pod="engine-0"),
            headed(1, at=119.0, pod="engine-0"),
            headed(2, at=120.0, pod="engine-0"),
            headed(3, at=61.0, pod="engine-1"),
            headed(4, at=61.0),
        ]
    )
    (batch,) = feed_over(topic).poll(600.0)
    assert {(c.minute, c.pod): c.n for c in batch.counts} == {
        (60.0, "engine-0"): 2,
        (120.0, "engine-0"): 1,
        (60.0, "engine-1"): 1,
        (60.0, ""): 1,
    }


def test_a_sampled_record_that_is_unreadable_is_counted_and_rejected() -> None:
    topic = MemoryTopic()
    topic.publish([Outgoing(b"ticket-router", b"{broken", {"pod": b"engine-5"}, at=125.0)])
    (batch,) = feed_over(topic).poll(129.0)
    assert [(c.adapter, c.pod, c.minute, c.n) for c in batch.counts] == [("ticket-router", "engine-5", 120.0, 1)]
    assert [(rejection.reason, rejection.offset, rejection.at) for rejection in batch.rejected] == [
        (RejectionReason.NOT_JSON, 0, 129.0)
    ]
    assert batch.opened == 1


def test_the_share_of_unreadable_records_is_estimated_from_those_that_were_opened() -> None:
    topic = MemoryTopic()
    topic.publish(Outgoing(b"ticket-router", b"{" if n % 4 == 0 else request(n).value) for n in range(4000))
    (batch,) = feed_over(topic, Config(rate=0.2, per_adapter_per_minute=10_000), at_once=4000).poll(0.0)
    assert batch.records == 4000
    four_sigma = 4 * math.sqrt(0.25 * 0.75 / batch.opened)
    assert abs(len(batch.rejected) / batch.opened - 0.25) < four_sigma


def test_without_a_configured_key_the_header_and_then_the_body_names_the_adapter() -> None:
    topic = MemoryTopic()
    good = request(1, "polite-rewriter")
    topic.publish(
        [
            Outgoing(None, good.value),
            Outgoing(b"user-17", request(2, "polite-rewriter").value),
            Outgoing(b"\xff", b"{broken"),
            Outgoing(b"user-18", b"{broken", {"adapter": b"ticket-router"}),
        ]
    )
    (batch,) = feed_over(topic).poll(0.0)
    assert counted([batch]) == {"polite-rewriter": 2, "ticket-router": 1}
    assert len(batch.rejected) == 2


def test_records_whose_adapter_is_only_in_the_body_are_all_counted_and_sampled_at_any_offset() -> None:
    chosen = []
    for order in (range(300), reversed(range(300))):
        topic = MemoryTopic()
        topic.publish(Outgoing(f"user-{n}".encode(), request(n).value) for n in order)
        (batch,) = feed_over(topic, Config(rate=0.1, per_adapter_per_minute=1000, salt="s")).poll(0.0)
        assert (counted([batch]), batch.opened) == ({"ticket-router": 300}, 300)
        chosen.append({interaction.request_id for interaction in batch.interactions})
    assert chosen[0] == chosen[1]
    assert abs(len(chosen[0]) - 30) <= 4 * math.sqrt(300 * 0.1 * 0.9)


def test_unknown_adapters_make_no_new_labels() -> None:
    topic = MemoryTopic()
    topic.publish(request(n, f"stranger-{n}") for n in range(50))
    (batch,) = feed_over(topic).poll(0.0)
    assert (batch.counts, batch.interactions) == ((), ())
    assert [rejection.reason for rejection in batch.rejected] == [RejectionReason.UNKNOWN_ADAPTER] * 50
    assert batch.rejected[0].detail == "adapter stranger-0"


def test_a_header_that_names_an_unknown_adapter_saves_decoding() -> None:
    topic = MemoryTopic()
    topic.publish(Outgoing(None, b"{broken", {"adapter": b"of-another-team"}) for _ in range(500))
    (batch,) = feed_over(topic, Config(rate=0.1, per_adapter_per_minute=1000)).poll(0.0)
    assert batch.counts == ()
    assert 20 < len(batch.rejected) == batch.opened < 90
    assert batch.rejected[0].detail == "adapter of-another-team"


def test_beyond_its_share_of_a_minute_an_adapter_is_shed_by_rank() -> None:
    topic = MemoryTopic()
    topic.publish([request(n) for n in range(50)] + [request(99, "polite-rewriter")])
    feed = feed_over(topic, Config(rate=1.0, per_adapter_per_minute=3, salt="s"))
    (batch,) = feed.poll(0.0)
    lowest = np.argsort(RankHash("s").of_offsets("traffic", 0, np.arange(50)))[:3]
    assert [interaction.offset for interaction in batch.interactions] == [*sorted(lowest.tolist()), 50]
    assert (feed.shed, counted([batch])["ticket-router"]) == ({"polite-rewriter": 0, "ticket-router": 47}, 50)


def test_the_same_request_produced_twice_counts_as_one_interaction() -> None:
    topic = MemoryTopic()
    topic.publish([request(1), request(2), request(1)])
    feed = feed_over(topic)
    (batch,) = feed.poll(0.0)
    assert [interaction.offset for interaction in batch.interactions] == [0, 1]
    assert [(rejection.offset, rejection.reason, rejection.detail) for rejection in batch.rejected] == [
        (2, RejectionReason.DUPLICATE, "as traffic:0:0")
    ]


def test_records_out_of_order_by_their_own_clock_are_read_in_order_of_offsets() -> None:
    topic = MemoryTopic()
    topic.publish(request(n, ts=float(100 - n)) for n in range(10))
    (batch,) = feed_over(topic).poll(200.0)
    assert [interaction.at for interaction in batch.interactions] == [100.0 - n for n in range(10)]


@pytest.mark.parametrize(
    ("ts", "sent", "at"),
    [(500.0, 400.0, 500.0), (90_000.0, 400.0, 400.0), (1.7e9, 1.7e12, 600.0), (0.0, 400.0, 0.0)],
    ids=["a minute apart is taken as told", "a day ahead: when it was sent", "both in other units: now", "long ago"],
)
def test_a_clock_that_is_wrong_moves_no_record_into_the_future(ts: float, sent: float, at: float) -> None:
    topic = MemoryTopic()
    good = request(1, ts=ts)
    topic.publish([Outgoing(good.key, good.value, at=sent)])
    (batch,) = feed_over(topic).poll(600.0)
    assert [interaction.at for interaction in batch.interactions] == [at]
    assert all(0 <= c.minute <= 600.0 for c in batch.counts)


def test_an_empty_topic_gives_nothing() -> None:
    feed = feed_over(MemoryTopic())
    assert feed.poll(0.0) == []
    feed.commit()
    assert feed.lag() == {("traffic", 0): 0}


def test_records_of_which_no_batch_can_be_made_wait_and_are_counted_once_when_it_can() -> None:
    """Pairing runs out of memory on one partition: what was made before is handed out, and nothing is committed past
    the rest."""
    topic, made = MemoryTopic(partitions=2), list[PartitionRecords]()
    for partition in (0, 1):
        topic.publish([request(n) for n in range(10)], partition)

    class Short(TrafficSampler):
        is_short = True

        def __call__(self, records: PartitionRecords, *given: Any) -> Sampled:
            made.append(records)
            if self.is_short and len(made) > 1:
                raise MemoryError
            return super().__call__(records, *given)

    sampler = Short(ALL, ADAPTERS)
    feed = TrafficFeed(MemoryConsumer(topic), sampler, dict)
    feed.open()
    first = feed.poll(0.0)
    assert counted(first) == {"ticket-router": 10}
    for _ in range(2):
        with pytest.raises(MemoryError):
            feed.poll(0.0)
    topic.publish([request(n) for n in range(10, 15)], 1)
    feed.commit()
    assert list(topic.committed.values()) == [10]
    sampler.is_short = False
    rest = [*feed.poll(0.0), *feed.poll(0.0)]
    assert counted([*first, *rest]) == {"ticket-router": 25}
    assert not any(one.redelivered for batch in rest for one in batch.interactions)
