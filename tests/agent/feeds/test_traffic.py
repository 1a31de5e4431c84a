"""The feed over the in-memory topic: counting, sampling, holding back. test_kafka_contract.py has the brokers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import orjson
import pytest

from agent.errors import Retryable
from agent.feeds.sample import Sampler
from agent.feeds.told import columns_of
from agent.feeds.traffic import TrafficFeed
from agent.memory import MemoryConsumer, MemoryTopic
from agent.records import AsideReason, TrafficBatch
from agent.sampling import Config, Ranking, below
from agent.topic import Outgoing, Place
from tests.agent.formats.records import example
from tests.kafka_brokers import request

ADAPTERS = ("ticket-router", "polite-rewriter")
ALL = Config(rate=1.0, per_adapter_per_minute=1000)


def feed_over(
    topic: MemoryTopic, sampling: Config = ALL, at_once: int = 500, form: str = "auto", **settings: Any
) -> TrafficFeed:
    sampler = Sampler(sampling, ADAPTERS, form)
    feed = TrafficFeed(MemoryConsumer(topic, at_once), sampler, **({"counted_upto": dict} | settings))
    feed.open()
    return feed


def headed(number: int, at: float | None = None, **headers: str) -> Outgoing:
    """One good record with headers, and a timestamp of its own."""
    good = request(number)
    return Outgoing(good.key, good.value, {name: text.encode() for name, text in headers.items()}, at)


def counted(batches: Iterable[TrafficBatch]) -> Counter[str]:
    return sum((Counter({c.adapter: c.n}) for batch in batches for c in batch.counts), Counter())


def store_of(batches: Iterable[TrafficBatch]) -> Mapping[Place, int]:
    """What a store would answer that holds these."""
    ends: dict[Place, int] = {}
    for batch in batches:
        place = batch.topic, batch.partition
        ends[place] = max(ends.get(place, 0), batch.next_offset)
    return ends


def test_all_are_counted_and_only_the_sample_is_opened() -> None:
    topic = MemoryTopic()
    topic.publish(request(n) for n in range(400))
    feed = feed_over(topic, Config(rate=0.1, per_adapter_per_minute=1000, salt="s"))
    (batch,) = feed.poll(0.0)
    wanted = np.flatnonzero(below(Ranking("s").of_offsets("traffic", 0, np.arange(400)), 0.1))
    assert counted([batch]) == {"ticket-router": 400}
    assert [seen.offset for seen in batch.interactions] == wanted.tolist()
    assert batch.opened == len(wanted) < 80


def test_where_a_header_has_the_request_id_it_decides_wherever_the_record_lies() -> None:
    topic = MemoryTopic(partitions=2)
    for partition in (0, 1):
        topic.publish((headed(n, request_id=f"id-{n}") for n in range(200)), partition)
    batches = feed_over(topic, Config(rate=0.2, per_adapter_per_minute=1000, salt="s")).poll(0.0)
    wanted = np.flatnonzero(below(Ranking("s").of_ids(f"id-{n}".encode() for n in range(200)), 0.2)).tolist()
    assert 20 < len(wanted) < 60
    assert [one.offset for one in batches[0].interactions] == wanted
    assert [one.offset for one in batches[1].aside] == wanted  # produced twice: looked at once
    assert {one.reason for one in batches[1].aside} == {AsideReason.DUPLICATE}


def test_dropping_does_not_look_at_the_content() -> None:
    """The same keys and offsets with other bodies: the same choice, also where the body is no JSON at all."""
    sampling = Config(rate=0.3, per_adapter_per_minute=30)
    chosen = []
    for bodies in ("long", "broken"):
        topic = MemoryTopic()
        good = request(1, output="word " * 500).value
        topic.publish(Outgoing(b"ticket-router", good if bodies == "long" else b"{") for _ in range(300))
        (batch,) = feed_over(topic, sampling).poll(0.0)
        assert batch.opened == 30
        seen = [one.offset for one in batch.interactions] + [one.offset for one in batch.aside]
        chosen.append(sorted(seen))
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


def test_a_sampled_record_that_is_unreadable_is_counted_and_set_aside() -> None:
    topic = MemoryTopic()
    topic.publish([Outgoing(b"ticket-router", b"{broken", {"pod": b"engine-5"}, at=125.0)])
    (batch,) = feed_over(topic).poll(129.0)
    assert [(c.adapter, c.pod, c.minute, c.n) for c in batch.counts] == [("ticket-router", "engine-5", 120.0, 1)]
    assert [(one.reason, one.offset, one.at) for one in batch.aside] == [(AsideReason.NOT_JSON, 0, 129.0)]
    assert batch.opened == 1


def test_the_share_of_unreadable_records_is_told_by_those_that_were_opened() -> None:
    topic = MemoryTopic()
    topic.publish(Outgoing(b"ticket-router", b"{" if n % 4 == 0 else request(n).value) for n in range(4000))
    (batch,) = feed_over(topic, Config(rate=0.2, per_adapter_per_minute=10_000), at_once=4000).poll(0.0)
    assert batch.records == 4000
    four_sigma = 4 * math.sqrt(0.25 * 0.75 / batch.opened)
    assert abs(len(batch.aside) / batch.opened - 0.25) < four_sigma


def test_without_a_known_key_the_header_and_then_the_body_names_the_adapter() -> None:
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
    assert len(batch.aside) == 2


def test_records_whose_adapter_only_the_body_tells_are_counted_all_and_sampled_by_their_id() -> None:
    topic = MemoryTopic()
    topic.publish(Outgoing(f"user-{n}".encode(), request(n).value) for n in range(300))
    (batch,) = feed_over(topic, Config(rate=0.1, per_adapter_per_minute=1000, salt="s")).poll(0.0)
    wanted = np.flatnonzero(below(Ranking("s").of_ids(f"r-{n}".encode() for n in range(300)), 0.1))
    assert (counted([batch]), batch.opened) == ({"ticket-router": 300}, 300)
    assert [seen.offset for seen in batch.interactions] == wanted.tolist()


def test_unknown_adapters_make_no_new_labels() -> None:
    topic = MemoryTopic()
    topic.publish(request(n, f"stranger-{n}") for n in range(50))
    feed = feed_over(topic)
    (batch,) = feed.poll(0.0)
    assert (batch.counts, batch.interactions, feed.aside) == ((), (), {AsideReason.UNKNOWN_ADAPTER: 50})
    assert batch.aside[0].detail == "adapter stranger-0"


def test_a_header_that_names_a_stranger_saves_the_opening() -> None:
    topic = MemoryTopic()
    topic.publish(Outgoing(None, b"{broken", {"adapter": b"of-another-team"}) for _ in range(500))
    (batch,) = feed_over(topic, Config(rate=0.1, per_adapter_per_minute=1000)).poll(0.0)
    assert batch.counts == ()
    assert 20 < len(batch.aside) == batch.opened < 90
    assert batch.aside[0].detail == "adapter of-another-team"


def test_headers_of_one_layout_and_of_many_say_the_same() -> None:
    """The quick way by columns, and the plain one by record."""
    alike = [(("request_id", f"r{n}".encode()), ("pod", b"p"), ("other", None)) for n in range(5)]
    assert columns_of(alike) == {"request_id": [f"r{n}".encode() for n in range(5)], "pod": [b"p"] * 5}
    mixed = [*alike, (("pod", b"q"),), (), (("adapter", b"a"), ("adapter", b"b"))]
    assert columns_of(mixed) == {
        "request_id": [*(f"r{n}".encode() for n in range(5)), None, None, None],
        "pod": [b"p"] * 5 + [b"q", None, None],
        "adapter": [None] * 7 + [b"b"],
    }
    assert columns_of([(("pod", b"p"), ("pod", b"q"))]) == {"pod": [b"q"]}


def test_beyond_its_share_of_a_minute_an_adapter_is_shed_by_rank() -> None:
    topic = MemoryTopic()
    topic.publish([request(n) for n in range(50)] + [request(99, "polite-rewriter")])
    feed = feed_over(topic, Config(rate=1.0, per_adapter_per_minute=3, salt="s"))
    (batch,) = feed.poll(0.0)
    lowest = np.argsort(Ranking("s").of_offsets("traffic", 0, np.arange(50)))[:3]
    assert [seen.offset for seen in batch.interactions] == [*sorted(lowest.tolist()), 50]
    assert (feed.shed, counted([batch])["ticket-router"]) == ({"polite-rewriter": 0, "ticket-router": 47}, 50)


def test_the_same_request_produced_twice_counts_as_one_interaction() -> None:
    topic = MemoryTopic()
    topic.publish([request(1), request(2), request(1)])
    feed = feed_over(topic)
    (batch,) = feed.poll(0.0)
    assert [seen.offset for seen in batch.interactions] == [0, 1]
    assert [(one.offset, one.reason, one.detail) for one in batch.aside] == [
        (2, AsideReason.DUPLICATE, "as traffic:0:0")
    ]


def envelope(*ids: str, model: str = "ticket-router") -> bytes:
    """Several requests in one record, as a collector batches them."""
    told = orjson.loads(example("otel_genai")[0].value or b"")
    scope = told["resourceLogs"][0]["scopeLogs"][0]
    (record,) = scope["logRecords"]
    kept = [one for one in record["attributes"] if one["key"] not in ("gen_ai.response.id", "gen_ai.request.model")]
    scope["logRecords"] = [
        record | {"attributes": [*kept, _told("gen_ai.response.id", name), _told("gen_ai.request.model", model)]}
        for name in ids
    ]
    return orjson.dumps(told)


def _told(name: str, text: str) -> dict[str, Any]:
    return {"key": name, "value": {"stringValue": text}}


@pytest.mark.parametrize(("key", "form"), [(None, "auto"), (b"trace-1", "auto"), (b"ticket-router", "otel_genai")])
def test_every_request_of_an_envelope_counts_once(key: bytes | None, form: str) -> None:
    topic = MemoryTopic()
    topic.publish([Outgoing(key, envelope("a", "b")), Outgoing(key, envelope("c", "b")), Outgoing(key, envelope("a"))])
    (batch,) = feed_over(topic, form=form).poll(0.0)
    assert [(seen.request_id, seen.offset) for seen in batch.interactions] == [("a", 0), ("b", 0), ("c", 1)]
    assert {one.reason for one in batch.aside} == {AsideReason.DUPLICATE} and len(batch.aside) == 2
    assert (counted([batch]), batch.opened, batch.records) == ({"ticket-router": 5}, 5, 3)


def test_the_same_id_twice_in_one_envelope_is_one_interaction() -> None:
    topic = MemoryTopic()
    topic.publish([Outgoing(None, envelope("a", "a"))])
    (batch,) = feed_over(topic).poll(0.0)
    assert [seen.request_id for seen in batch.interactions] == ["a"]
    assert [one.reason for one in batch.aside] == [AsideReason.DUPLICATE]


def test_requests_of_an_envelope_are_sampled_each_by_its_own_id() -> None:
    topic, ids = MemoryTopic(), [f"id-{n}" for n in range(200)]
    topic.publish([Outgoing(None, envelope(*ids), {"request_id": b"of the envelope"})])
    (batch,) = feed_over(topic, Config(rate=0.2, per_adapter_per_minute=1000, salt="s")).poll(0.0)
    wanted = below(Ranking("s").of_ids(name.encode() for name in ids), 0.2)
    assert [seen.request_id for seen in batch.interactions] == [ids[at] for at in np.flatnonzero(wanted)]
    assert counted([batch]) == {"ticket-router": 200}


def test_an_envelope_read_again_after_a_crash_is_marked_and_not_counted_again() -> None:
    topic = MemoryTopic()
    topic.publish([Outgoing(None, envelope("a", "b")), Outgoing(None, envelope("c", "d"))])
    first = feed_over(topic, at_once=1)
    (before,) = first.poll(0.0)
    first.close()
    again = feed_over(topic, counted_upto=lambda: store_of([before]))
    (after,) = (batch for _ in range(2) for batch in again.poll(0.0))
    assert [(seen.request_id, seen.again) for seen in after.interactions] == [
        ("a", True), ("b", True), ("c", False), ("d", False),
    ]  # fmt: skip
    assert counted([before, after]) == {"ticket-router": 4}


def test_an_envelope_under_the_key_of_one_adapter_says_what_to_set() -> None:
    """It was counted as one by its key, before it was opened."""
    topic = MemoryTopic()
    topic.publish([Outgoing(b"ticket-router", envelope("a", "b")), Outgoing(b"ticket-router", envelope("c"))])
    (batch,) = feed_over(topic).poll(0.0)
    assert [seen.request_id for seen in batch.interactions] == ["c"]
    assert [one.detail for one in batch.aside] == [
        "2 requests in a record whose key or header names one adapter: set kafka.format"
    ]


def test_records_out_of_order_by_their_own_clock_are_read_as_they_lie() -> None:
    topic = MemoryTopic()
    topic.publish(request(n, ts=float(100 - n)) for n in range(10))
    (batch,) = feed_over(topic).poll(200.0)
    assert [seen.at for seen in batch.interactions] == [100.0 - n for n in range(10)]


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
    assert [seen.at for seen in batch.interactions] == [at]
    assert all(0 <= c.minute <= 600.0 for c in batch.counts)


def events(*ids: str, keyed: bool = True) -> Iterator[Outgoing]:
    """Request and response of each, the requests first."""
    halves = example("kserve")
    for half in halves:
        for name in ids:
            yield Outgoing(b"ticket-router" if keyed else None, half.value, {**half.headers, "ce_id": name.encode()})


@pytest.mark.parametrize("keyed", [True, False])
def test_a_request_and_its_response_are_one_interaction_and_one_count(keyed: bool) -> None:
    topic = MemoryTopic()
    topic.publish(events(*(f"id-{n}" for n in range(20)), keyed=keyed))
    feed = feed_over(topic, at_once=7)
    batches = [batch for _ in range(6) for batch in feed.poll(0.0)]
    kept = [seen for batch in batches for seen in batch.interactions]
    assert sorted(seen.request_id for seen in kept) == sorted(f"id-{n}" for n in range(20))
    assert {seen.output for seen in kept} == {"shipping"}
    assert counted(batches) == {"ticket-router": 20}


def test_both_halves_of_a_sampled_request_are_kept() -> None:
    topic = MemoryTopic()
    topic.publish(events(*(f"id-{n}" for n in range(200))))
    (batch,) = feed_over(topic, Config(rate=0.2, per_adapter_per_minute=1000, salt="s")).poll(0.0)
    wanted = np.flatnonzero(below(Ranking("s").of_ids(f"id-{n}".encode() for n in range(200)), 0.2)).tolist()
    assert [seen.request_id for seen in batch.interactions] == [f"id-{n}" for n in wanted]
    assert (batch.opened, batch.aside) == (2 * len(wanted), ())


def test_a_request_without_its_response_is_told_in_time() -> None:
    topic = MemoryTopic()
    topic.publish(list(events("alone", "id-1"))[:1])
    feed = feed_over(topic)
    assert [batch.aside for batch in feed.poll(0.0)] == [()]
    topic.publish(events("id-2"))
    (batch,) = feed.poll(1000.0)
    assert [(one.offset, one.reason) for one in batch.aside] == [(0, AsideReason.UNPAIRED)]
    assert [seen.request_id for seen in batch.interactions] == ["id-2"]


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
    # What evidence is drawn from: each once, those of the first agent's batches by the first agent.
    fresh = Counter(seen.request_id for batch in stored + again for seen in batch.fresh)
    assert fresh == {f"r-{n}": 1 for n in range(40)}
    ranges = sorted((c.first_offset, c.last_offset) for batch in stored + again for c in batch.counts)
    assert all(a == b or a[1] < b[0] for a, b in pairwise(ranges))


def test_the_same_range_has_the_same_token_after_a_crash_and_in_a_topic_made_anew_another() -> None:
    clock = [700.0]
    topic = MemoryTopic(clock=lambda: clock[0])
    topic.publish(request(n) for n in range(10))
    first = feed_over(topic)
    token = first.poll(0.0)[0].token
    first.close()
    second = feed_over(topic)
    assert second.poll(5.0)[0].token == token == "traffic:0:0-9:700000:v2"
    second.close()
    clock[0] = 800.0
    topic.make_anew()
    topic.publish(request(n) for n in range(10))
    assert feed_over(topic).poll(5.0)[0].token == "traffic:0:0-9:800000:v2"


def test_a_topic_made_anew_while_nobody_looked_is_read_from_its_beginning() -> None:
    """The store remembers the old topic's offsets, and the saved evidence too: both lie beyond the new one's end."""
    topic = MemoryTopic(partitions=2)
    topic.publish((request(n) for n in range(5)), partition=0)
    topic.publish((request(n) for n in range(5, 8)), partition=1)
    old = {("traffic", 0): 900, ("traffic", 1): 2}
    judged = {("traffic", 0, "ticket-router"): 3, ("traffic", 1, "ticket-router"): 1}
    feed = feed_over(topic, counted_upto=lambda: old, judged=judged)
    anew, known = feed.poll(0.0)
    assert (anew.anew, counted([anew]), len(anew.fresh)) == (True, {"ticket-router": 5}, 5)
    assert (known.anew, counted([known]), [seen.offset for seen in known.fresh]) == (False, {"ticket-router": 1}, [2])
    assert feed.status == (True, "traffic:0 was made anew, and is read from its beginning")
    topic.publish((request(n) for n in range(10, 910)), partition=0)
    later = [batch for _ in range(3) for batch in feed.poll(0.0)]
    assert (counted(later), any(batch.anew for batch in later)) == ({"ticket-router": 900}, False)
    assert feed.status == (True, "")


def test_a_topic_made_anew_under_a_reader_is_read_from_its_beginning_and_committed_there() -> None:
    topic = MemoryTopic()
    topic.publish(request(n) for n in range(50))
    feed = feed_over(topic)
    feed.poll(0.0)
    topic.make_anew()
    topic.publish(request(n) for n in range(100, 108))
    (batch,) = feed.poll(0.0)
    assert (batch.anew, counted([batch]), len(batch.fresh)) == (True, {"ticket-router": 8}, 8)
    feed.commit()
    assert topic.committed == {("traffic", 0): 8}, "not where the old one ended"


def test_what_the_saved_evidence_holds_is_not_fresh_though_the_store_never_had_it() -> None:
    """By adapter: one that waits for its turn loses nothing to one whose turn came first."""
    topic = MemoryTopic()
    topic.publish(request(n, ADAPTERS[n % 2]) for n in range(8))
    judged = {("traffic", 0, ADAPTERS[0]): 5, ("traffic", 0, ADAPTERS[1]): 2}
    (batch,) = feed_over(topic, judged=judged).poll(0.0)
    assert [seen.offset for seen in batch.fresh] == [3, 5, 6, 7]
    assert counted([batch]) == {ADAPTERS[0]: 4, ADAPTERS[1]: 4}, "the store counts what it does not hold"


@pytest.mark.parametrize(
    ("mark", "fresh"), [(0, True), (1, True), (2, False)], ids=["neither was read", "one of them", "both"]
)
@pytest.mark.parametrize("response_first", [False, True])
def test_two_halves_were_heard_before_when_both_lie_below_the_mark(
    mark: int, fresh: bool, response_first: bool
) -> None:
    """Whichever came first: what was whole only above the mark was never scored."""
    topic = MemoryTopic()
    topic.publish(list(events("id"))[:: -1 if response_first else 1])
    (batch,) = feed_over(topic, counted_upto=lambda: {("traffic", 0): mark}).poll(0.0)
    assert [not seen.again for seen in batch.interactions] == [fresh]


@pytest.mark.parametrize("marks", [(1, 1), (0, 1), (1, 0)])
def test_halves_in_two_partitions_are_judged_by_both_their_marks(marks: tuple[int, int]) -> None:
    topic = MemoryTopic(partitions=2)
    for partition, half in enumerate(events("id")):
        topic.publish([half], partition)
    stored = {("traffic", partition): mark for partition, mark in enumerate(marks)}
    batches = feed_over(topic, counted_upto=lambda: stored).poll(0.0)
    assert [seen.again for batch in batches for seen in batch.interactions] == [marks == (1, 1)]


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


def test_partitions_that_go_are_flushed_and_committed_first() -> None:
    topic = MemoryTopic(partitions=2)
    topic.publish((request(n) for n in range(4)), partition=0)
    topic.publish((request(n + 10) for n in range(6)), partition=1)
    first = feed_over(topic)
    flushed: list[int] = []
    first.flush = lambda: flushed.append(1) or True  # type: ignore[func-returns-value]
    assert len(first.poll(0.0)) == 2
    second = feed_over(topic)
    first.poll(0.0)
    assert (flushed, topic.committed) == ([1], {("traffic", 0): 4, ("traffic", 1): 6})
    assert second.poll(0.0) == []  # nothing comes twice


def test_partitions_that_go_while_the_sinks_are_away_are_not_committed() -> None:
    topic = MemoryTopic()
    topic.publish(request(n) for n in range(4))
    first = feed_over(topic)
    first.flush = lambda: False
    first.poll(0.0)
    feed_over(topic)
    first.poll(0.0)
    assert topic.committed == {}


def test_an_empty_topic_gives_nothing() -> None:
    feed = feed_over(MemoryTopic())
    assert feed.poll(0.0) == []
    feed.commit()
    assert feed.lag() == {("traffic", 0): 0}
