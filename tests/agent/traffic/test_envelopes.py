"""Several requests in one record: each is counted, sampled and recognised as a duplicate by itself."""

from __future__ import annotations

import math
from typing import Any

import orjson
import pytest

from agent.kafka.contract import Outgoing
from agent.kafka.in_memory import MemoryTopic
from agent.records import RejectionReason
from agent.traffic.reservoir import Config
from tests.agent.traffic.feeding import counted, feed_over, store_of
from tests.agent.traffic.formats.records import example


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
    assert [(interaction.request_id, interaction.offset) for interaction in batch.interactions] == [
        ("a", 0),
        ("b", 0),
        ("c", 1),
    ]
    assert {rejection.reason for rejection in batch.rejected} == {RejectionReason.DUPLICATE} and len(
        batch.rejected
    ) == 2
    assert (counted([batch]), batch.opened, batch.records) == ({"ticket-router": 5}, 5, 3)


def test_the_same_id_twice_in_one_envelope_is_one_interaction() -> None:
    topic = MemoryTopic()
    topic.publish([Outgoing(None, envelope("a", "a"))])
    (batch,) = feed_over(topic).poll(0.0)
    assert [interaction.request_id for interaction in batch.interactions] == ["a"]
    assert [rejection.reason for rejection in batch.rejected] == [RejectionReason.DUPLICATE]


def test_requests_of_an_envelope_are_sampled_each_by_itself_and_however_they_are_batched() -> None:
    ids, chosen = [f"id-{n}" for n in range(200)], []
    for at_once in (200, 20):
        topic = MemoryTopic()
        topic.publish(
            Outgoing(None, envelope(*ids[begin : begin + at_once]), {"request_id": b"of the envelope"})
            for begin in range(0, 200, at_once)
        )
        (batch,) = feed_over(topic, Config(rate=0.2, per_adapter_per_minute=1000, salt="s")).poll(0.0)
        assert counted([batch]) == {"ticket-router": 200}
        chosen.append([interaction.request_id for interaction in batch.interactions])
    assert chosen[0] == chosen[1]
    assert abs(len(chosen[0]) - 40) <= 4 * math.sqrt(200 * 0.2 * 0.8)


def test_requests_of_an_envelope_without_ids_are_identified_by_their_number_in_it() -> None:
    topic = MemoryTopic()
    told = orjson.loads(envelope("", "", ""))
    for record in told["resourceLogs"][0]["scopeLogs"][0]["logRecords"]:
        del record["spanId"]
    topic.publish([Outgoing(None, orjson.dumps(told))])
    (batch,) = feed_over(topic).poll(0.0)
    assert [interaction.request_id for interaction in batch.interactions] == [
        "traffic:0:0",
        "traffic:0:0:1",
        "traffic:0:0:2",
    ]
    assert batch.rejected == ()


def test_an_envelope_read_again_after_a_crash_is_marked_and_not_counted_again() -> None:
    topic = MemoryTopic()
    topic.publish([Outgoing(None, envelope("a", "b")), Outgoing(None, envelope("c", "d"))])
    first = feed_over(topic, at_once=1)
    (before,) = first.poll(0.0)
    first.close()
    again = feed_over(topic, counted_upto=lambda: store_of([before]))
    (after,) = (batch for _ in range(2) for batch in again.poll(0.0))
    assert [(interaction.request_id, interaction.redelivered) for interaction in after.interactions] == [
        ("a", True), ("b", True), ("c", False), ("d", False),
    ]  # fmt: skip
    assert counted([before, after]) == {"ticket-router": 4}


def test_an_envelope_under_the_key_of_one_adapter_says_what_to_set() -> None:
    """It was counted as one by its key, before it was opened."""
    topic = MemoryTopic()
    topic.publish([Outgoing(b"ticket-router", envelope("a", "b")), Outgoing(b"ticket-router", envelope("c"))])
    (batch,) = feed_over(topic).poll(0.0)
    assert [interaction.request_id for interaction in batch.interactions] == ["c"]
    assert [rejection.detail for rejection in batch.rejected] == [
        "2 requests in a record whose key or header names one adapter: set kafka.format"
    ]
