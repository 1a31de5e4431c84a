"""Two Deployments on one topic, each with a consumer group of its own: what each counts, and what is read of both."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from agent.kafka.in_memory import MemoryConsumer, MemoryTopic
from agent.records import RequestCount, TrafficBatch
from agent.sinks.clickhouse import Config, Sink
from agent.store import client as store
from agent.store.table_rows import Origin
from agent.surroundings import Surroundings
from agent.traffic.feed import TrafficFeed
from agent.traffic.reservoir import Config as SamplingConfig
from agent.traffic.traffic_sampler import TrafficSampler
from tests.agent import findings
from tests.agent.findings import NOW, ROUTER, TONE
from tests.agent.store.stored import HERE, answers, embedded, insert
from tests.kafka_brokers import request

TRAFFIC = ("traffic", 0)
SUPPORT, SALES = replace(HERE, consumer_group="support"), replace(HERE, consumer_group="sales")
PATIENCE_S = 60.0


def read_and_store(dsn: str, topic: MemoryTopic, adapter: str, group: str, client: store.Client, folder: Path) -> None:
    """One agent from its first poll to its last row, as after a restart: the store says how far it has counted."""
    own = topic if group == "support" else _of_another_group(topic)
    sampler = TrafficSampler(SamplingConfig(rate=0.0), [adapter])
    feed = TrafficFeed(MemoryConsumer(own), sampler, lambda: store.counted_upto(client, "prod", group, [adapter]))
    sink = Sink(Config(dsn=dsn), Surroundings("prod", f"pod-of-{group}", folder, consumer_group=group))
    feed.open()
    sink.open()
    for batch in feed.poll(NOW):
        sink.submit(batch)
    give_up = time.monotonic() + PATIENCE_S
    while sink.waiting and time.monotonic() < give_up:
        time.sleep(0.01)
    assert not sink.waiting, sink.status
    sink.close(5.0)
    feed.close()


def _of_another_group(topic: MemoryTopic) -> MemoryTopic:
    """The same records; members and commits of its own."""
    again = MemoryTopic(topic.name, len(topic.partitions))
    again.logs = topic.logs
    return again


@pytest.mark.parametrize(("of_support", "of_sales"), [(ROUTER, TONE), (ROUTER, ROUTER)], ids=["others", "the same"])
def test_two_groups_count_every_request_of_their_adapters(
    dsn: str, migrated: store.Client, of_support: str, of_sales: str, tmp_path: Path
) -> None:
    topic = MemoryTopic()
    topic.publish(request(n, (ROUTER, TONE)[n % 2], ts=NOW) for n in range(200))
    for group, adapter in (("support", of_support), ("sales", of_sales)):
        read_and_store(dsn, topic, adapter, group, migrated, tmp_path)
    sql = "SELECT consumer_group, adapter, sum(n) FROM request_counts FINAL GROUP BY ALL ORDER BY consumer_group DESC"
    assert migrated.query(sql).result_rows == [("support", of_support, 100), ("sales", of_sales, 100)]
    for group, adapter in (("support", of_support), ("sales", of_sales)):
        assert store.counted_upto(migrated, "prod", group, [adapter]) == {TRAFFIC: 200}
    rejected = answers(migrated, "aside")
    assert {(row["consumer_group"], row["records"]) for row in rejected} == {("support", 100), ("sales", 100)}
    assert store.counted_upto(migrated, "prod", "a third", [ROUTER, TONE]) == {}


@embedded
def test_rows_from_before_groups_hold_for_whoever_watches_their_adapter(migrated: store.Client) -> None:
    """Written by the version before, which has '' in the new column: nothing is counted twice, nothing is skipped."""
    place = ("llm.interactions", 0)
    insert(migrated, findings.batch(0, n=10, aside=0))
    assert store.counted_upto(migrated, "prod", "support", [ROUTER]) == {place: 10}
    assert store.counted_upto(migrated, "prod", "sales", [TONE]) == {}
    assert store.counted_upto(migrated, "prod", "", [ROUTER, TONE]) == {place: 10}
    insert(migrated, findings.batch(10, n=5, aside=0), place=SUPPORT)
    assert store.counted_upto(migrated, "prod", "support", [ROUTER]) == {place: 15}
    assert store.counted_upto(migrated, "prod", "sales", [ROUTER]) == {place: 10}


@embedded
def test_a_batch_without_counts_moves_the_mark_of_its_own_group_alone(migrated: store.Client) -> None:
    insert(migrated, findings.batch(0, n=0, aside=4), place=SUPPORT)
    migrated.command("ALTER TABLE request_counts DELETE WHERE 1 SETTINGS mutations_sync = 1")
    assert store.counted_upto(migrated, "prod", "support", [ROUTER]) == {("llm.interactions", 0): 4}
    assert store.counted_upto(migrated, "prod", "sales", [ROUTER]) == {}


def counts(first: int, n: int, at: float, partition: int = 0, topic: str = "llm.interactions") -> TrafficBatch:
    minute, last = at - at % 60, first + n - 1
    one = RequestCount(topic, partition, first, last, ROUTER, "engine-0", minute, n)
    return TrafficBatch(topic, partition, first, last + 1, (), (one,), (), n, at)


def requests(client: store.Client) -> list[int]:
    return [row["requests"] for row in answers(client, "requests_since", subject=ROUTER)]


@embedded
def test_a_request_that_two_groups_read_is_counted_once(migrated: store.Client) -> None:
    insert(migrated, findings.alarm(NOW - 600))
    insert(migrated, counts(0, 100, NOW - 300), counts(100, 50, NOW), place=SUPPORT)
    insert(migrated, counts(0, 60, NOW - 300), counts(60, 40, NOW - 300), place=SALES)  # has not read the last 50
    assert requests(migrated) == [150]
    insert(migrated, counts(0, 30, NOW, partition=1), place=SALES)  # a partition that it read first
    assert requests(migrated) == [180]
    insert(migrated, counts(0, 7, NOW, topic="another"), place=SALES)  # and a topic that the other does not read
    assert requests(migrated) == [187]


@embedded
def test_an_incident_that_an_upgrade_interrupts_counts_both_versions(migrated: store.Client) -> None:
    insert(migrated, findings.alarm(NOW - 600), counts(0, 100, NOW - 300), counts(100, 20, NOW))
    insert(migrated, counts(120, 30, NOW), place=SUPPORT)  # the same minute, where the version before ended
    insert(migrated, counts(120, 30, NOW), place=SALES)
    assert requests(migrated) == [150]


@embedded
def test_a_request_that_two_groups_count_was_served_once(migrated: store.Client) -> None:
    for group in (SUPPORT, SALES):
        insert(migrated, findings.batch(at=NOW - 3600, n=40), place=group)
    insert(migrated, findings.batch(1000, at=NOW - 3 * 86_400, n=7), place=SUPPORT)
    (row,) = answers(migrated, "served")
    assert (row["adapter"], row["requests"], row["prompt_tokens"], row["output_tokens"]) == (ROUTER, 47, 20.0, 8.0)
    assert answers(migrated, "served", days="1")[0]["requests"] == 40


@embedded
@pytest.mark.parametrize("groups", [(SUPPORT,), (SUPPORT, SALES)])
def test_what_is_older_than_a_day_is_served_once_however_many_groups_count_it(
    migrated: store.Client, groups: tuple[Origin, ...]
) -> None:
    begins = time.time() // 60 * 60 - 7 * 86_400
    for group in groups:
        insert(
            migrated,
            counts(0, 9, begins - 60),
            counts(9, 20, begins + 300),
            counts(29, 5, begins + 86_400),
            place=group,
        )
    insert(migrated, counts(34, 11, begins + 86_400), place=groups[0])  # the others have not read these
    (row,) = answers(migrated, "served")
    assert row["requests"] == 36
