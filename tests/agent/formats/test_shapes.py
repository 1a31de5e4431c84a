"""Shapes beyond the examples that real exporters write."""

from __future__ import annotations

import math
from typing import Any

import orjson
import pytest

from agent.errors import Unreadable
from agent.feeds.reader import Reader
from agent.records import Half, Interaction
from agent.topic import Message
from tests.agent.formats.records import PLACE, example


def read(value: Any, **headers: bytes) -> Interaction:
    seen = Reader().read(Message(7, 50.0, None, orjson.dumps(value), headers), PLACE)
    assert isinstance(seen, Interaction)
    return seen


def body(file: str) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(example(file)[0].value or b"")
    return found


def test_a_completion_with_token_ids_as_its_prompt() -> None:
    choice = {"text": "shipping", "finish_reason": "stop", "logprobs": {"token_logprobs": [None, -0.5]}}
    pair = {
        "request": {"model": "ticket-router", "prompt": [5, 6, 7], "max_completion_tokens": 9},
        "response": {"id": "cmpl-1", "choices": [choice]},
    }
    seen = read(pair)
    assert (seen.prompt_token_ids, seen.messages, seen.output, seen.at) == ((5, 6, 7), (), "shipping", 50.0)
    assert seen.sampling == {"max_tokens": 9.0}
    assert math.isnan(seen.token_logprobs[0])
    assert seen.token_logprobs[1] == -0.5


def test_an_answer_that_only_calls_tools_is_an_empty_output() -> None:
    pair = body("openai")
    pair["response"]["choices"][0]["message"] = {"role": "assistant", "content": None, "tool_calls": [{"id": "t"}]}
    assert read(pair).output == ""


def test_a_bare_event_with_attributes_as_an_object() -> None:
    event = {
        "name": "gen_ai.client.inference.operation.details",
        "timestamp": "2023-11-14T22:13:21Z",
        "trace_id": "t",
        "span_id": "s",
        "attributes": {
            "gen_ai.request.model": "ticket-router",
            "gen_ai.system_instructions": [{"type": "text", "content": "Answer with a queue."}],
            "gen_ai.input.messages": [{"role": "user", "parts": [{"type": "text", "content": "Where?"}]}],
            "gen_ai.output.messages": [{"role": "assistant", "parts": [{"type": "text", "content": "shipping"}]}],
        },
    }
    seen = read(event)
    assert (seen.request_id, seen.at, seen.output) == ("t:s", 1_700_000_001.0, "shipping")
    assert [turn["content"] for turn in seen.messages] == ["Answer with a queue.", "Where?"]


def test_an_envelope_of_several_events_says_what_to_set() -> None:
    envelope = body("otel_genai")
    scope = envelope["resourceLogs"][0]["scopeLogs"][0]
    scope["logRecords"] *= 2
    with pytest.raises(Unreadable, match="2 log records in one message, 1 wanted"):
        read(envelope)


def test_nested_attributes_and_values_without_messages() -> None:
    span = {
        "context": {"trace_id": "t", "span_id": "s"},
        "attributes": {
            "openinference": {"span": {"kind": "LLM"}},
            "llm": {"model_name": "ticket-router"},
            "input": {"value": "Where?"},
            "output": {"value": "shipping"},
        },
    }
    seen = read(span)
    assert (seen.messages[0]["content"], seen.output, seen.at) == ("Where?", "shipping", 50.0)


def test_messages_as_lists_within_nested_attributes() -> None:
    turns = [{"message": {"role": "user", "contents": [{"message_content": {"type": "text", "text": "Where?"}}]}}]
    answer = [{"message": {"role": "assistant", "content": "shipping"}}]
    llm = {"model_name": "ticket-router", "input_messages": turns, "output_messages": answer}
    attributes = {"openinference": {"span": {"kind": "LLM"}}, "llm": llm}
    seen = read({"span_id": "s", "attributes": attributes})
    assert (seen.messages[0]["content"], seen.output) == ("Where?", "shipping")


def test_a_span_of_another_kind_is_set_aside() -> None:
    span = body("openinference")
    span["attributes"]["openinference.span.kind"] = "RETRIEVER"
    with pytest.raises(Unreadable, match="unknown_schema"):
        read(span)


def test_a_structured_event_is_the_same_half_as_a_binary_one() -> None:
    binary = example("kserve")[0]
    attributes = {name[3:]: text.decode() for name, text in binary.headers.items() if name.startswith("ce_")}
    event = {**attributes, "data": orjson.loads(binary.value or b"")}
    structured = Message(binary.offset, binary.at, None, orjson.dumps(event), {"pod": b"engine-0"})
    half = Reader().read(structured, PLACE)
    assert isinstance(half, Half)
    assert half == Reader().read(binary, PLACE)


def test_what_is_in_no_format_says_which_there_are() -> None:
    with pytest.raises(Unreadable, match=r"unknown_schema: none of: gapwatch\.v1, kserve, openai"):
        read({"prompt": "Where?", "output": "shipping"})


@pytest.mark.parametrize("file", ["gapwatch_v1", "openai"])
def test_token_ids_and_their_log_probabilities_arrive(file: str) -> None:
    seen = read(body(file))
    assert (seen.prompt_token_ids, seen.output_token_ids, seen.token_logprobs) == ((1, 2), (7, 8), (-0.25, -0.5))


@pytest.mark.parametrize("wrong", ["12", [1.5], [-1], [None], [True], [2**40]])
def test_token_ids_that_are_none_cost_the_record_and_not_the_loop(wrong: Any) -> None:
    with pytest.raises(Unreadable, match="wrong_type: output_token_ids"):
        read(body("gapwatch_v1") | {"output_token_ids": wrong})


def test_every_sampling_parameter_that_changes_the_law_arrives() -> None:
    told = {
        **{"temperature": 0, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "seed": 3, "max_tokens": 16},
        **{"repetition_penalty": 1.1, "presence_penalty": 0.5, "frequency_penalty": 0.25},
    }
    seen = read(body("gapwatch_v1") | {"sampling": told | {"stop": ["\n"], "best_of": 2}})
    assert seen.sampling == told
