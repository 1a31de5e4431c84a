"""Shapes beyond the examples that real exporters write."""

from __future__ import annotations

import math
from typing import Any

import orjson
import pytest

from agent.errors import Unreadable
from agent.kafka.contract import Message
from agent.records import LoggedHalf
from agent.traffic.decoder import Decoder
from probes.scoring.interaction import Interaction
from tests.agent.traffic.formats.pairs import body, read
from tests.agent.traffic.formats.records import PLACE, example, only


def test_a_completion_with_token_ids_as_its_prompt() -> None:
    choice = {"text": "shipping", "finish_reason": "stop", "logprobs": {"token_logprobs": [None, -0.5]}}
    pair = {
        "request": {"model": "ticket-router", "prompt": [5, 6, 7], "max_completion_tokens": 9},
        "response": {"id": "cmpl-1", "choices": [choice]},
    }
    interaction = read(pair)
    assert (interaction.prompt_token_ids, interaction.messages, interaction.output, interaction.at) == (
        (5, 6, 7),
        (),
        "shipping",
        50.0,
    )
    assert interaction.sampling == {"max_tokens": 9.0}
    assert math.isnan(interaction.token_logprobs[0])
    assert interaction.token_logprobs[1] == -0.5


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
    interaction = read(event)
    assert (interaction.request_id, interaction.at, interaction.output) == ("t:s", 1_700_000_001.0, "shipping")
    assert [turn["content"] for turn in interaction.messages] == ["Answer with a queue.", "Where?"]


def test_an_envelope_of_several_events_is_read_event_by_event() -> None:
    envelope = body("otel_genai")
    resource = envelope["resourceLogs"][0]
    (record,) = resource["scopeLogs"][0]["logRecords"]
    named = [{"key": "gen_ai.request.model", "value": {"stringValue": "ticket-router"}}]
    resource["scopeLogs"][0]["logRecords"] = [record, {"eventName": record["eventName"], "attributes": named}]
    other = {"scopeLogs": [{"logRecords": [{"body": {"stringValue": "GET /health"}}, record]}]}
    envelope["resourceLogs"].append(other)
    one, broken, two = Decoder().read(Message(7, 50.0, None, orjson.dumps(envelope), {}), PLACE)
    assert isinstance(one, Interaction) and isinstance(two, Interaction) and isinstance(broken, Unreadable)
    assert (one.output, one.pod, two.output, two.pod) == ("shipping", "engine-0", "shipping", "")
    assert broken.reason == "missing_field"


def test_an_envelope_without_an_answer_is_no_traffic() -> None:
    health = {"resourceLogs": [{"scopeLogs": [{"logRecords": [{"body": {"stringValue": "GET /health"}}]}]}]}
    with pytest.raises(Unreadable, match="unknown_schema: an envelope without"):
        read(health)


def pair_of(name: str, value: Any) -> dict[str, Any]:
    kinds = {str: "stringValue", int: "intValue", float: "doubleValue", list: "arrayValue"}
    inner = {"values": [{"stringValue": one} for one in value]} if isinstance(value, list) else value
    return {"key": name, "value": {kinds[type(value)]: inner}}


def spans(*told: dict[str, Any]) -> dict[str, Any]:
    """A trace: of each span its attributes."""
    written = [
        {"traceId": "t", "spanId": f"s{i}", "endTimeUnixNano": "1700000001000000000", "attributes": attributes}
        for i, attributes in enumerate([[pair_of(*item) for item in one.items()] for one in told])
    ]
    resource = {"attributes": [pair_of("k8s.pod.name", "engine-0")]}
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": written}]}]}


GENAI = {
    "gen_ai.request.model": "ticket-router",
    "gen_ai.request.temperature": 0.7,
    "gen_ai.input.messages": '[{"role": "user", "parts": [{"type": "text", "content": "Where?"}]}]',
    "gen_ai.output.messages": '[{"role": "assistant", "parts": [{"type": "text", "content": "shipping"}]}]',
}
LLM = {
    "openinference.span.kind": "LLM",
    "llm.model_name": "ticket-router",
    "llm.input_messages.0.message.role": "user",
    "llm.input_messages.0.message.content": "Where?",
    "llm.output_messages.0.message.role": "assistant",
    "llm.output_messages.0.message.content": "shipping",
}


@pytest.mark.parametrize(
    ("mine", "other"), [(GENAI, {"http.method": "GET"}), (LLM, {"openinference.span.kind": "TOOL"})]
)
def test_spans_with_a_models_answer_are_read_and_others_skipped(mine: Any, other: Any) -> None:
    found = Decoder().read(Message(7, 50.0, None, orjson.dumps(spans(mine, other, mine)), {}), PLACE)
    assert [one.request_id for one in found if isinstance(one, Interaction)] == ["t:s0", "t:s2"]
    assert {(one.at, one.pod, one.output) for one in found if isinstance(one, Interaction)} == {
        (1_700_000_001.0, "engine-0", "shipping")
    }
    assert len(found) == 2


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({}, ""),
        ({"gen_ai.request.choice.count": 2}, "one of several (n)"),
        ({"gen_ai.request.stop_sequences": ["x"]}, "may be truncated (stop)"),
        ({"gen_ai.output.type": "json"}, "constrains the output"),
        ({"gen_ai.output.type": "text"}, ""),
        ({"gen_ai.tool.definitions": '[{"name": "f"}]'}, "offers tools"),
        ({"gen_ai.operation.name": "text_completion"}, "raw text"),
        ({"gen_ai.usage.reasoning.output_tokens": 5}, "reasoning besides"),
        ({"gen_ai.response.finish_reasons": ["tool_call"]}, "calls tools"),
        ({"gen_ai.input.messages": '[{"role": "user", "parts": [{"type": "blob"}]}]'}, "parts that are not text"),
    ],
)
def test_of_an_otel_event_what_has_no_known_distribution(more: dict[str, Any], words: str) -> None:
    found = read(spans(GENAI | more)).unscored
    assert (words in found) if words else found == ""


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({}, ""),
        ({"llm.invocation_parameters": '{"logit_bias": {"5": 1}}'}, "biases tokens"),
        ({"llm.tools.0.tool.json_schema": "{}"}, "tools are offered"),
        ({"llm.output_messages.0.message.tool_calls.0.tool_call.id": "t"}, "tools are offered or called"),
        ({"llm.input_messages.0.message.contents.0.message_content.type": "image"}, "not text"),
        ({"llm.output_messages.1.message.role": "assistant"}, "one of several"),
        ({"llm.token_count.completion_details.reasoning": 4}, "reasoning besides"),
        ({"llm.finish_reason": "tool_calls"}, "calls tools"),
    ],
)
def test_of_a_span_of_openinference_what_has_no_known_distribution(more: dict[str, Any], words: str) -> None:
    found = read(spans(LLM | more)).unscored
    assert (words in found) if words else found == ""


@pytest.mark.parametrize(
    ("request_", "choice", "more", "words"),
    [
        ({"logit_bias": {"5": 1}}, {}, {}, "biases tokens (logit_bias)"),
        ({}, {"stop_reason": "\n", "token_ids": None}, {}, "truncated at a stop string (stop_reason)"),
        ({}, {"message": {"content": "a", "reasoning": "b"}}, {}, "reasoning besides"),
        ({}, {"finish_reason": "tool_calls"}, {}, "calls tools"),
        ({}, {}, {"usage": {"completion_tokens_details": {"reasoning_tokens": 4}}}, "reasoning besides"),
    ],
)
def test_of_an_openai_pair_what_has_no_known_distribution(request_: Any, choice: Any, more: Any, words: str) -> None:
    pair = body("openai")
    pair["request"] |= request_
    pair["response"]["choices"][0] |= choice
    pair["response"] |= more
    assert words in read(pair).unscored


def test_several_choices_are_not_one_sample() -> None:
    pair = body("openai")
    pair["response"]["choices"] *= 2
    assert "one of several (choices)" in read(pair).unscored


@pytest.mark.parametrize(("more", "words"), [({"tool_calls": [{}]}, "calls tools"), ({"reasoning": "b"}, "reasoning")])
def test_of_our_own_format_what_has_no_known_distribution(more: dict[str, Any], words: str) -> None:
    own = body("gapwatch_v1")
    assert words in read(own | more).unscored
    assert "biases" in read(own | {"sampling": {"temperature": 1.0, "logit_bias": {"5": 1}}}).unscored


def test_a_group_is_only_its_hash_and_is_the_same_in_every_format() -> None:
    pair, span = body("openai"), body("openinference")
    pair["request"]["user"] = "me@example.com"
    span["attributes"]["session.id"] = "me@example.com"
    told = [
        read(body("gapwatch_v1") | {"session": "me@example.com", "tenant": "acme"}),
        read(pair),
        read(span),
        read(spans(GENAI | {"gen_ai.conversation.id": "me@example.com"})),
    ]
    (group,) = {interaction.group for interaction in told}
    assert len(group) == 16 and int(group, 16)
    assert read(body("gapwatch_v1") | {"tenant": "acme"}).group not in ("", group)
    assert read(body("gapwatch_v1")).group == ""


@pytest.mark.parametrize("pod", ["me@example.com", "a b", "../x"])
def test_what_is_no_pods_name_becomes_no_label(pod: str) -> None:
    assert read(body("openai") | {"pod": pod}).pod == ""
    assert read(body("openai") | {"pod": "engine-0"}, pod=pod.encode()).pod == "engine-0"


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
    interaction = read(span)
    assert (interaction.messages[0]["content"], interaction.output, interaction.at) == ("Where?", "shipping", 50.0)


def test_messages_as_lists_within_nested_attributes() -> None:
    turns = [{"message": {"role": "user", "contents": [{"message_content": {"type": "text", "text": "Where?"}}]}}]
    answer = [{"message": {"role": "assistant", "content": "shipping"}}]
    llm = {"model_name": "ticket-router", "input_messages": turns, "output_messages": answer}
    attributes = {"openinference": {"span": {"kind": "LLM"}}, "llm": llm}
    interaction = read({"span_id": "s", "attributes": attributes})
    assert (interaction.messages[0]["content"], interaction.output) == ("Where?", "shipping")


def test_a_span_of_another_kind_is_rejected() -> None:
    span = body("openinference")
    span["attributes"]["openinference.span.kind"] = "RETRIEVER"
    with pytest.raises(Unreadable, match="unknown_schema"):
        read(span)


def test_a_structured_event_is_the_same_half_as_a_binary_one() -> None:
    binary = example("kserve")[0]
    attributes = {name[3:]: text.decode() for name, text in binary.headers.items() if name.startswith("ce_")}
    event = {**attributes, "data": orjson.loads(binary.value or b"")}
    structured = Message(binary.offset, binary.at, None, orjson.dumps(event), {"pod": b"engine-0"})
    half = only(Decoder(), structured)
    assert isinstance(half, LoggedHalf)
    assert half == only(Decoder(), binary)


def test_a_record_of_no_format_is_rejected_with_the_list_of_formats() -> None:
    with pytest.raises(Unreadable, match=r"unknown_schema: none of: gapwatch\.v1, kserve, litellm, openai"):
        read({"prompt": "Where?", "output": "shipping"})


@pytest.mark.parametrize("file", ["gapwatch_v1", "openai"])
def test_token_ids_and_their_log_probabilities_are_read(file: str) -> None:
    interaction = read(body(file))
    assert (interaction.prompt_token_ids, interaction.output_token_ids, interaction.token_logprobs) == (
        (1, 2),
        (7, 8),
        (-0.25, -0.5),
    )


@pytest.mark.parametrize("wrong", ["12", [1.5], [-1], [None], [True], [2**40]])
def test_malformed_token_ids_cost_the_record_and_not_the_loop(wrong: Any) -> None:
    with pytest.raises(Unreadable, match="wrong_type: output_token_ids"):
        read(body("gapwatch_v1") | {"output_token_ids": wrong})


def test_every_sampling_parameter_that_changes_the_distribution_is_read() -> None:
    told = {
        **{"temperature": 0, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "seed": 3, "max_tokens": 16},
        **{"repetition_penalty": 1.1, "presence_penalty": 0.5, "frequency_penalty": 0.25},
    }
    interaction = read(body("gapwatch_v1") | {"sampling": told | {"stop": ["\n"], "best_of": 2}})
    assert interaction.sampling == told
    assert interaction.unscored == "the answer is one of several (best_of)"
