"""The feed over the in-memory topic: counting, sampling, holding back. test_kafka_contract.py has the brokers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import pairwise

import pytest

from agent.errors import Retryable
from agent.feeds.traffic import TrafficFeed
from agent.memory import MemoryConsumer, MemoryTopic
from agent.records import AsideReason, TrafficBatch
from agent.sampling import Config, keep
from agent.topic import Outgoing, Place
from tests.kafka_brokers import request

ADAPTERS = ("ticket-router", "polite-rewriter")
ALL = Config(rate=1.0, per_adapter_per_minute=1000)


def feed_over(topic: MemoryTopic, sampling: Config = ALL, at_once: int = 500, **settings: object) -> TrafficFeed:
    feed = TrafficFeed(MemoryConsumer(topic, at_once), ADAPTERS, sampling, **({"counted_upto": dict} | settings))  # type: ignore[arg-type]
    feed.open()
    return feed


def counted(batches: Iterable[TrafficBatch]) -> Counter[str]:
    return sum((Counter({c.adapter: c.n}) for batch in batches for c in batch.counts), Counter())


def store_of(batches: Iterable[TrafficBatch]) -> Mapping[Place, int]:
    """What a store would answer that holds these."""
    ends: dict[Place, int] = {}
    for batch in batches:
        place = batch.topic, batch.partition
        ends[place] = max(ends.get(place, 0), batch.next_offset)
    return ends


def test_all_are_counted_and_only_the_sample_is_kept() -> None:
    topic = MemoryTopic()
    topic.publish(request(n) for n in range(400))
    feed = feed_over(topic, Config(rate=0.1, per_adapter_per_minute=1000, salt="s"))
    batches = feed.poll(0.0)
    kept = {seen.request_id for batch in batches for seen in batch.interactions}
    assert counted(batches) == {"ticket-router": 400}
    assert kept == {f"r-{n}" for n in range(400) if keep(f"r-{n}", 0.1, "s")}


def test_counts_are_by_minute_and_pod() -> None:
    topic = MemoryTopic()
    topic.publish(
        [request(0, ts=60.0), request(1, ts=119.0), request(2, ts=120.0), request(3, ts=61.0, pod="engine-1")]
    )
    (batch,) = feed_over(topic).poll(0.0)
    assert {(c.minute, c.pod): c.n for c in batch.counts} == {
        (60.0, "engine-0"): 2,
        (120.0, "engine-0"): 1,
        (60.0, "engine-1"): 1,
    }


def test_an_unreadable_record_with_a_known_key_is_counted_and_set_aside() -> None:
    topic = MemoryTopic()
    topic.publish([Outgoing(b"ticket-router", b"{broken", {"pod": b"engine-5"}, at=125.0)])
    (batch,) = feed_over(topic).poll(9.0)
    assert [(c.adapter, c.pod, c.minute, c.n) for c in batch.counts] == [("ticket-router", "engine-5", 120.0, 1)]
    assert [(one.reason, one.offset, one.at) for one in batch.aside] == [(AsideReason.NOT_JSON, 0, 9.0)]


def test_without_a_known_key_the_body_names_the_adapter() -> None:
    topic = MemoryTopic()
    good = request(1, "polite-rewriter")
    topic.publish([Outgoing(None, good.value), Outgoing(b"user-17", good.value), Outgoing(b"\xff", b"{broken")])
    assert counted(feed_over(topic).poll(0.0)) == {"polite-rewriter": 2}


def test_unknown_adapters_make_no_new_labels() -> None:
    topic = MemoryTopic()
    topic.publish(request(n, f"stranger-{n}") for n in range(50))
    feed = feed_over(topic)
    (batch,) = feed.poll(0.0)
    assert (batch.counts, batch.interactions, feed.aside) == ((), (), {AsideReason.UNKNOWN_ADAPTER: 50})
    assert batch.aside[0].detail == "adapter stranger-0"


def test_beyond_its_share_of_a_minute_an_adapter_is_shed_in_order_of_arrival() -> None:
    topic = MemoryTopic()
    topic.publish([request(n) for n in range(5)] + [request(9, "polite-rewriter")])
    feed = feed_over(topic, Config(rate=1.0, per_adapter_per_minute=3))
    (batch,) = feed.poll(0.0)
    assert [seen.request_id for seen in batch.interactions] == ["r-0", "r-1", "r-2", "r-9"]
    assert (feed.shed, counted([batch])["ticket-router"]) == ({"ticket-router": 2}, 5)


def test_nothing_is_forgotten_before_commit() -> None:
    topic = MemoryTopic()
    topic.publish(request(n) for n in range(10))
    feed = feed_over(topic)
    feed.poll(0.0)
    assert topic.committed == {}
    feed.commit()
    assert topic.committed == {("traffic", 0): 10}


@pytest.mark.parametrize("first_cut, second_cut", [(7, 7), (7, 4), (4, 7), (1, 500)])
def test_after_a_crash_records_come_again_and_are_counted_once(first_cut: int, second_cut: int) -> None:
    """The batches need not be cut alike: the second agent knows from the store how far was counted."""
    topic = MemoryTopic()
    topic.publish(request(n, ADAPTERS[n % 2]) for n in range(40))
    before = feed_over(topic, at_once=first_cut)
    stored = [batch for _ in range(3) for batch in before.poll(0.0)]
    before.close()  # durable, but the crash came before the commit
    after = feed_over(topic, at_once=second_cut, counted_upto=lambda: store_of(stored), max_pending=1000)
    again = [batch for _ in range(50) for batch in after.poll(0.0)]
    assert sum(batch.records for batch in again) == 40
    assert counted(stored + again) == {"ticket-router": 20, "polite-rewriter": 20}
    ranges = sorted((c.first_offset, c.last_offset) for batch in stored + again for c in batch.counts)
    assert all(a == b or a[1] < b[0] for a, b in pairwise(ranges))


def test_the_same_range_has_the_same_token_after_a_crash() -> None:
    topic = MemoryTopic()
    topic.publish(request(n) for n in range(10))
    first = feed_over(topic)
    token = first.poll(0.0)[0].token
    first.close()
    assert feed_over(topic).poll(5.0)[0].token == token == "traffic:0:0-9:v1"


def test_too_many_uncommitted_batches_hold_reading_back() -> None:
    topic = MemoryTopic()
    topic.publish(request(n) for n in range(10))
    feed = feed_over(topic, at_once=1, max_pending=3)
    read = [len(feed.poll(0.0)) for _ in range(6)]
    assert read == [1, 1, 1, 0, 0, 0]
    assert feed.status == (True, "waiting for the sinks")
    feed.commit()
    assert len(feed.poll(0.0)) == 1
    assert feed.status == (True, "")


def test_a_refused_commit_is_repeated() -> None:
    topic = MemoryTopic()
    topic.publish(request(n) for n in range(3))
    feed = feed_over(topic)
    feed.poll(0.0)
    topic.away = True
    feed.commit()
    assert (topic.committed, feed.poll(0.0), feed.status.up) == ({}, [], False)
    topic.away = False
    feed.commit()
    assert topic.committed == {("traffic", 0): 3}


def test_without_word_from_the_store_nothing_is_handed_out_and_nothing_is_lost() -> None:
    topic = MemoryTopic()
    topic.publish(request(n) for n in range(3))
    away = [True]

    def counted_upto() -> Mapping[Place, int]:
        if away[0]:
            raise Retryable("clickhouse", "restarting")
        return {("traffic", 0): 2}

    feed = feed_over(topic, counted_upto=counted_upto)
    assert (feed.poll(0.0), feed.poll(0.0)) == ([], [])
    assert feed.status == (True, "waiting for the store to tell what it holds")
    away[0] = False
    (batch,) = feed.poll(0.0)
    assert (batch.records, counted([batch])) == (3, {"ticket-router": 1})


def test_a_lost_partition_is_not_committed_and_its_next_owner_reads_it_again() -> None:
    topic = MemoryTopic(partitions=2)
    topic.publish((request(n) for n in range(4)), partition=0)
    topic.publish((request(n) for n in range(4)), partition=1)
    first = feed_over(topic)
    stored = first.poll(0.0)
    second = feed_over(topic, counted_upto=lambda: store_of(stored))
    first.commit()  # refused: the group is being shared out anew
    kept, moved = first.poll(0.0), second.poll(0.0)
    assert {b.partition for b in kept} | {b.partition for b in moved} == {0, 1}
    first.commit()
    second.commit()
    assert topic.committed == {("traffic", 0): 4, ("traffic", 1): 4}
    assert counted(stored + kept + moved) == {"ticket-router": 8}


def test_an_empty_topic_gives_nothing() -> None:
    feed = feed_over(MemoryTopic())
    assert feed.poll(0.0) == []
    feed.commit()
    assert feed.lag() == {("traffic", 0): 0}
