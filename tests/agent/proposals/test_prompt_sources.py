"""Prompts from the store or the topic, after redaction; what cannot be had is said with what to do."""

from __future__ import annotations

from typing import Any

import pytest

from agent.config import Config
from agent.errors import Refused
from agent.kafka.in_memory import MemoryConsumer, MemoryTopic
from agent.proposals.prompt_sources import alone, from_store, from_topic
from tests.kafka_brokers import request

COLUMNS = ["prompt", "roles", "turn_chars", "requests", "tokens", "vector"]
KAFKA = {"bootstrap_servers": ["127.0.0.1:9"], "topic": "traffic"}
RULE = {"pattern": r"question \d+", "with": "question N"}


def config(**more: Any) -> Config:
    adapters = [{"name": name, "path": name} for name in ("ticket-router", "polite-rewriter")]
    return Config.model_validate({"models": [{"name": "m", "path": "b", "adapters": adapters}]} | more)


def row(text: str, requests: int = 1) -> tuple[Any, ...]:
    return (f"user: {text}" if text else "", ["user"] if text else [], [len(text)] if text else [], requests, 0, [])


def test_prompts_of_the_store_are_redacted_again_with_the_rules_of_now() -> None:
    rules = config(sampling={"redact": [RULE]})
    source = from_store(rules, "ticket-router", 24, (COLUMNS, [row("question 1", 2), row("question 2")]))
    assert source is not None and source.words == "the store, the last 24 h"
    ((prompt,), requests) = source.prompts.prompts, source.prompts.requests
    assert (prompt.canary.messages[0]["content"], requests) == ("question N", 3)


def test_without_text_the_topic_is_read_where_there_is_one() -> None:
    answer = COLUMNS, [row("", 40)]
    assert from_store(config(kafka=KAFKA), "ticket-router", 24, answer) is None
    with pytest.raises(Refused, match=r"40 sampled requests, none with its text.*store_text: true.*section kafka"):
        from_store(config(), "ticket-router", 24, answer)
    with pytest.raises(Refused, match="no sampled request of it in the last 24 h"):
        from_store(config(), "ticket-router", 24, (COLUMNS, []))


def test_of_the_topic_the_requests_of_the_adapter_alone() -> None:
    topic = MemoryTopic()
    topic.publish(request(n, ("ticket-router", "polite-rewriter")[n % 2]) for n in range(10))
    source = from_topic(config(kafka=KAFKA), "ticket-router", MemoryConsumer(topic), lambda *_: None)
    contents = sorted(prompt.canary.messages[0]["content"] for prompt in source.prompts.prompts)
    assert contents == [f"question {n}" for n in range(0, 10, 2)]
    assert {prompt.tokens for prompt in source.prompts.prompts} == {12}
    assert source.words.startswith("the last 10 records of traffic, since ")


def test_a_topic_without_requests_of_it_is_refused_with_what_was_read() -> None:
    topic = MemoryTopic()
    topic.publish(request(n, "somebody-else") for n in range(3))
    with pytest.raises(Refused, match=r"none in the last 3 records of traffic \(3 requests in them"):
        from_topic(config(kafka=KAFKA), "ticket-router", MemoryConsumer(topic), lambda *_: None)


def test_the_topic_is_read_in_no_group() -> None:
    own = alone(config(kafka=KAFKA))
    assert (own.mode, own.group_id, own.auto_offset_reset, own.topic) == ("assign", None, "earliest", "traffic")
    with pytest.raises(Refused, match="kafka"):
        alone(config())
