"""Ids that several requests share, and ids that are empty:

each request counts, and one that is sent twice counts once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import orjson
import pytest

from agent.kafka.contract import Outgoing
from agent.kafka.in_memory import MemoryTopic
from agent.records import RejectionReason
from agent.traffic.reservoir import Config
from tests.agent.traffic.feeding import counted, events, feed_over, store_of

NOW = 2_000_000_000.0
KEYS = [pytest.param(b"ticket-router", id="by its key"), pytest.param(None, id="by its body")]


def pair(name: str, text: str = "shipping", created: float | None = 1.7e9) -> dict[str, Any]:
    """A pair as a gateway logs it."""
    told = {} if created is None else {"created": created}
    message = {"role": "assistant", "content": text}
    return {
        "request": {"model": "ticket-router", "messages": [{"role": "user", "content": "Where?"}], "temperature": 0.7},
        "response": {"id": name, "choices": [{"message": message, "finish_reason": "stop"}], **told},
    }


def sent(body: dict[str, Any], key: bytes | None = b"ticket-router", at: float = 1.8e9, **headers: bytes) -> Outgoing:
    return Outgoing(key, orjson.dumps(body), headers, at)


def of_an_engine_with_few_ids(key: bytes | None, headed: bool = False) -> Iterator[Outgoing]:
    """4,000 requests within 40 minutes, ids drawn from 199."""
    for n in range(4000):
        name = f"chatcmpl-{n * 7919 % 199}"
        told = pair(name, f"answer {n}", 1.7e9 + n)
        yield sent(told, key, 1.8e9 + 0.6 * n, **({"request_id": name.encode()} if headed else {}))


@pytest.mark.parametrize("key", KEYS)
def test_requests_that_share_ids_are_all_counted_and_none_is_a_duplicate(key: bytes | None) -> None:
    topic = MemoryTopic()
    topic.publish(of_an_engine_with_few_ids(key))
    (batch,) = feed_over(topic, Config(rate=1.0, per_adapter_per_minute=10_000), at_once=4000).poll(NOW)
    assert counted([batch]) == {"ticket-router": 4000}
    assert ([interaction.offset for interaction in batch.interactions], batch.rejected) == (list(range(4000)), ())


@pytest.mark.parametrize(("key", "headed"), [(b"ticket-router", False), (b"ticket-router", True), (None, False)])
def test_requests_that_share_ids_are_sampled_at_the_rate(key: bytes | None, headed: bool) -> None:
    topic = MemoryTopic()
    topic.publish(of_an_engine_with_few_ids(key, headed))
    (batch,) = feed_over(topic, Config(rate=0.1, per_adapter_per_minute=10_000), at_once=4000).poll(NOW)
    assert abs(len(batch.interactions) - 400) <= 4 * math.sqrt(4000 * 0.1 * 0.9)
    assert (counted([batch]), batch.rejected) == ({"ticket-router": 4000}, ())
    assert len({interaction.request_id for interaction in batch.interactions}) > 150, "not always the same ids"


@pytest.mark.parametrize("key", KEYS)
def test_one_id_and_one_text_at_two_times_are_two_requests(key: bytes | None) -> None:
    """A classifier writes the same word to the same question again and again."""
    topic = MemoryTopic()
    topic.publish(sent(pair("chatcmpl-1", created=1.7e9 + n), key) for n in range(3))
    (batch,) = feed_over(topic).poll(NOW)
    assert ([interaction.offset for interaction in batch.interactions], batch.rejected) == ([0, 1, 2], ())


@pytest.mark.parametrize("key", KEYS)
def test_one_id_at_one_time_with_two_texts_are_two_requests(key: bytes | None) -> None:
    topic = MemoryTopic()
    topic.publish([sent(pair("chatcmpl-1", "refund"), key), sent(pair("chatcmpl-1", "shipping"), key)])
    (batch,) = feed_over(topic).poll(NOW)
    assert ([interaction.output for interaction in batch.interactions], batch.rejected) == (["refund", "shipping"], ())


@pytest.mark.parametrize("created", [1.7e9, None], ids=["the record tells its time", "Kafka tells it"])
@pytest.mark.parametrize("key", KEYS)
def test_what_its_producer_sent_again_is_a_duplicate(key: bytes | None, created: float | None) -> None:
    topic = MemoryTopic(partitions=2)
    for partition in (0, 1):
        topic.publish([sent(pair("chatcmpl-1", created=created), key, 1.8e9 + 90 * partition)], partition)
    batches = feed_over(topic).poll(NOW)
    assert [interaction.partition for batch in batches for interaction in batch.interactions] == [0]
    assert [
        (rejection.partition, rejection.reason, rejection.detail) for batch in batches for rejection in batch.rejected
    ] == [(1, RejectionReason.DUPLICATE, "as traffic:0:0")]


def test_an_event_and_the_span_of_one_request_are_one() -> None:
    """Both carry the engine's id; their clocks stop milliseconds apart."""
    topic = MemoryTopic()
    topic.publish(sent(pair("chatcmpl-1", created=1.7e9 + late)) for late in (0.0, 0.02))
    (batch,) = feed_over(topic).poll(NOW)
    assert [interaction.offset for interaction in batch.interactions] == [0]
    assert [rejection.reason for rejection in batch.rejected] == [RejectionReason.DUPLICATE]


def test_what_kafka_delivers_twice_is_the_same_request_and_not_judged_again() -> None:
    topic = MemoryTopic()
    topic.publish([sent(pair("chatcmpl-1", "refund")), sent(pair("chatcmpl-1", "shipping"))])
    first = feed_over(topic)
    stored = first.poll(NOW)
    first.close()
    (again,) = feed_over(topic, counted_upto=lambda: store_of(stored)).poll(NOW)
    assert [(interaction.output, interaction.redelivered) for interaction in again.interactions] == [
        ("refund", True),
        ("shipping", True),
    ]
    assert (again.rejected, counted([*stored, again])) == ((), {"ticket-router": 2})


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("name", ["", None])
def test_requests_without_ids_are_identified_by_their_offsets(key: bytes | None, name: Any) -> None:
    topic = MemoryTopic()
    topic.publish(sent(pair(name), key) for _ in range(3))
    (batch,) = feed_over(topic).poll(NOW)
    assert [interaction.request_id for interaction in batch.interactions] == [
        "traffic:0:0",
        "traffic:0:1",
        "traffic:0:2",
    ]
    assert (batch.rejected, counted([batch])) == ((), {"ticket-router": 3})


def test_two_requests_of_one_id_whose_answers_are_still_to_come_are_not_paired() -> None:
    """The wrong pair would be a prompt with an answer that nobody gave to it."""
    first, second = events("id")
    other = replace(first, value=(first.value or b"").replace(b"Where is", b"What is"))
    topic = MemoryTopic()
    topic.publish([first, other, second, second, *events("id-2")])
    (batch,) = feed_over(topic).poll(NOW)
    assert [interaction.request_id for interaction in batch.interactions] == ["id-2"]
    assert [(rejection.offset, rejection.reason) for rejection in batch.rejected] == [
        (n, RejectionReason.UNPAIRED) for n in range(4)
    ]
    assert (
        batch.rejected[0].detail
        == "several requests with this id are waiting: which response belongs to which is unknown"
    )


def test_a_request_that_was_sent_again_before_its_answer_came_is_one() -> None:
    first, second = events("id")
    topic = MemoryTopic()
    topic.publish([first, first, second])
    (batch,) = feed_over(topic).poll(NOW)
    assert ([interaction.output for interaction in batch.interactions], batch.rejected) == (["shipping"], ())


def test_halves_of_one_id_that_two_components_log_pair_within_each() -> None:
    """KServe's transformer and its predictor pass one id on; the second pair is the same request once more."""
    inner = list(events("id"))
    outer = [replace(half, headers={**half.headers, "ce_component": b"transformer"}) for half in inner]
    outer[0] = replace(outer[0], value=(outer[0].value or b"").replace(b"Where is", b"Raw: where is"))
    topic = MemoryTopic()
    topic.publish([outer[0], inner[0], inner[1], outer[1]])
    (batch,) = feed_over(topic).poll(NOW)
    assert [(interaction.messages[0]["content"], interaction.output) for interaction in batch.interactions] == [
        ("Where is my parcel?", "shipping"), ("Raw: where is my parcel?", "shipping")
    ]  # fmt: skip
    assert batch.rejected == ()


def test_halves_that_are_nested_too_deeply_to_be_compared_do_not_stop_the_feed() -> None:
    first, _ = events("id")
    deep = [b'{"a":' * 1000 + str(n).encode() + b"}" * 1000 for n in (1, 2)]
    topic = MemoryTopic()
    topic.publish([*(replace(first, value=value) for value in deep), *events("id-2")])
    (batch,) = feed_over(topic).poll(NOW)
    assert [rejection.reason for rejection in batch.rejected] == [RejectionReason.UNPAIRED] * 2
    assert [interaction.request_id for interaction in batch.interactions] == ["id-2"]
