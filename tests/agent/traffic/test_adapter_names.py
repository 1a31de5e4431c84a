"""Which adapter a request is for, where its ``model`` names the base."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import orjson
import pytest

from agent.kafka.contract import Outgoing
from agent.kafka.in_memory import MemoryConsumer, MemoryTopic
from agent.records import RejectionReason, TrafficBatch
from agent.traffic.feed import TrafficFeed
from agent.traffic.record_labels import split_base
from agent.traffic.traffic_sampler import TrafficSampler
from tests.agent.traffic.feeding import ALL, counted
from tests.agent.traffic.formats.pairs import otel, pair, span
from tests.agent.traffic.formats.records import example

BASE = "meta-llama/Llama-3.1-8B-Instruct"


def polled(
    *records: Any,
    names: tuple[str, ...] = ("ticket-router",),
    bases: Mapping[str, str] = MappingProxyType({}),
    key: bytes | None = None,
    **headers: bytes,
) -> TrafficBatch:
    topic = MemoryTopic()
    topic.publish(one if isinstance(one, Outgoing) else Outgoing(key, orjson.dumps(one), headers) for one in records)
    feed = TrafficFeed(MemoryConsumer(topic), TrafficSampler(ALL, names, bases=bases), dict)
    feed.open()
    (batch,) = feed.poll(2e9)
    return batch


def named(batch: TrafficBatch) -> list[tuple[str, str]]:
    return [(interaction.adapter, interaction.base) for interaction in batch.interactions]


@pytest.mark.parametrize(
    "asked",
    [
        {"model": BASE, "lora_path": "ticket-router"},
        {"model": BASE, "lora_path": ["ticket-router"]},
        {"model": BASE, "extra_body": {"lora_path": "ticket-router"}},
        {"model": BASE, "adapter_id": "ticket-router"},
        {"model": f"{BASE}:ticket-router"},
    ],
)
def test_an_adapter_beside_its_base_is_the_adapter(asked: Any) -> None:
    batch = polled(pair(asked))
    assert named(batch) == [("ticket-router", BASE)]
    assert (counted([batch]), batch.rejected) == ({"ticket-router": 1}, ())
    assert batch.interactions[0].unscored == ""


@pytest.mark.parametrize("nothing", [None, "", []])
def test_no_lora_path_is_no_adapter(nothing: Any) -> None:
    assert named(polled(pair({"lora_path": nothing}))) == [("ticket-router", "")]


@pytest.mark.parametrize("wrong", [["a", "b"], 5, {"a": 1}])
def test_a_malformed_lora_path_is_rejected(wrong: Any) -> None:
    (rejection,) = polled(pair({"lora_path": wrong})).rejected
    assert (rejection.reason, rejection.detail) == (RejectionReason.WRONG_TYPE, "lora_path")


def test_in_every_format_a_base_may_stand_before_the_adapter() -> None:
    model = f"{BASE}:ticket-router"
    batch = polled(otel({"gen_ai.request.model": model}), span({"llm.model_name": model}))
    assert named(batch) == [("ticket-router", BASE)] * 2


def test_only_configured_names_decide_what_a_colon_means() -> None:
    """Ollama's names hold one: the whole of it is the name."""
    assert named(polled(pair({"model": "llama3:8b"}), names=("llama3:8b", "8b"))) == [("llama3:8b", "")]
    (stranger,) = polled(pair({"model": "llama3:8b"})).rejected
    assert (stranger.reason, stranger.detail) == (RejectionReason.UNKNOWN_ADAPTER, "adapter llama3:8b")
    assert split_base("base:org:router", ("router", "org:router")) == ("base", "org:router")
    assert split_base("a:b:router", ("router",)) == ("a:b", "router")
    assert split_base("base:", ("router",)) == ("", "base:")


@pytest.mark.parametrize("key", [True, False])
def test_a_key_or_a_header_may_name_the_base_before_the_adapter(key: bool) -> None:
    name, value = f"{BASE}:ticket-router".encode(), orjson.dumps(pair({"model": f"{BASE}:ticket-router"}))
    batch = polled(Outgoing(name, value) if key else Outgoing(None, value, {"adapter": name}))
    assert (named(batch), counted([batch])) == ([("ticket-router", BASE)], {"ticket-router": 1})


@pytest.mark.parametrize("asked", [{"model": BASE, "lora_path": "ticket-router"}, {"model": f"{BASE}:ticket-router"}])
@pytest.mark.parametrize("response_first", [False, True])
def test_two_halves_of_such_a_request_are_one_and_count_once(asked: Any, response_first: bool) -> None:
    """The response names what the request did: with lora_path that is the base alone."""
    request, response = example("kserve")
    told = orjson.loads(response.value or b"") | {"model": asked["model"]}
    halves = [
        Outgoing(None, orjson.dumps(orjson.loads(request.value or b"") | asked), request.headers),
        Outgoing(None, orjson.dumps(told), response.headers),
    ]
    batch = polled(*(reversed(halves) if response_first else halves))
    assert (named(batch), counted([batch])) == ([("ticket-router", BASE)], {"ticket-router": 1})


def test_a_request_that_names_the_base_alone_is_the_bases() -> None:
    """Under its name in the configuration, whatever the engine lists it as; without ``bases`` it is nobody's."""
    batch = polled(pair({"model": BASE}), bases={BASE: "llama"})
    assert named(batch) == [("llama", BASE)]
    assert (counted([batch]), batch.rejected) == ({"llama": 1}, ())
    assert named(polled(pair({"model": f"{BASE}:ticket-router"}), bases={BASE: "llama"})) == [("ticket-router", BASE)]
    assert [r.reason for r in polled(pair({"model": BASE})).rejected] == [RejectionReason.UNKNOWN_ADAPTER]


def test_a_header_may_name_the_base_and_a_key_may_not() -> None:
    """Producers key records by the base's name, and have the adapter in the body."""
    bases = {BASE: "llama"}
    by_header = polled(pair({"model": BASE}), bases=bases, adapter=BASE.encode())
    assert (named(by_header), counted([by_header])) == ([("llama", BASE)], {"llama": 1})
    keyed = polled(pair({"model": BASE, "lora_path": "ticket-router"}), bases=bases, key=BASE.encode())
    assert (named(keyed), counted([keyed])) == ([("ticket-router", BASE)], {"ticket-router": 1})
