"""Prompts and answers in the shapes that exporters and gateways write."""

from __future__ import annotations

import base64
from typing import Any

import orjson
import pytest

from agent.errors import Unreadable
from agent.kafka.contract import Message
from agent.records import LoggedHalf, RejectionReason
from agent.traffic.decoder import Decoder
from tests.agent.traffic.formats.pairs import (
    GENAI,
    any_value,
    completion,
    event,
    message,
    otel,
    pair,
    read,
    span,
    told,
)
from tests.agent.traffic.formats.records import PLACE, example, only

ONE_TEXT = "the prompt is raw text (prompt), and no prompt token ids were recorded"


def refusal(value: Any, **headers: bytes) -> str:
    (found,) = Decoder().read(message(value, **headers), PLACE)
    assert isinstance(found, Unreadable)
    return f"{found.reason}: {found.detail}"


# An OpenAI pair.


@pytest.mark.parametrize(
    ("prompt", "texts", "ids", "unscored"),
    [
        ("Where?", ["Where?"], (), ONE_TEXT),
        (["Where?"], ["Where?"], (), ONE_TEXT),
        ([5, 6, 7], [], (5, 6, 7), ""),
        ([[5, 6, 7]], [], (5, 6, 7), ""),
        (["Where?", "Why?"], ["Where?"], (), "the request contains 2 prompts (prompt)"),
        ([[5, 6], [7]], [], (5, 6), "the request contains 2 prompts (prompt)"),
    ],
)
def test_a_completions_prompt_is_one_or_a_list_with_one(prompt: Any, texts: Any, ids: Any, unscored: str) -> None:
    interaction = read(completion({"prompt": prompt}))
    assert ([turn["content"] for turn in interaction.messages], interaction.prompt_token_ids) == (texts, ids)
    assert (interaction.output, interaction.unscored) == ("shipping", unscored)


@pytest.mark.parametrize("prompt", [[], 5, {"a": 1}, [[]], [None], [5, "a"], [["a"]]])
def test_a_malformed_prompt_is_rejected(prompt: Any) -> None:
    assert refusal(completion({"prompt": prompt})).endswith("prompt")


def test_an_answer_that_repeats_its_prompt_is_read_without_it() -> None:
    interaction = read(completion({"echo": True}, text="Where? shipping"))
    assert (interaction.output, interaction.unscored) == (" shipping", "the answer repeats its prompt (echo)")
    assert read(completion({"echo": False})).output == "shipping"


@pytest.mark.parametrize(
    ("request_", "choice", "unscored"),
    [
        ({"modalities": ["text"]}, {}, ""),
        ({"modalities": ["text", "audio"]}, {}, "the request sets modalities, which may change the output"),
        ({"stop": "END"}, {}, "the answer may be truncated (stop), and no output token ids were recorded"),
        ({"stop": ""}, {}, ""),
        ({"suffix": "."}, {}, "the prompt is more than its messages (suffix), and no prompt token ids were recorded"),
        ({"separate_reasoning": True, "stream_reasoning": False}, {}, ""),
        ({"messages": [{"role": "developer", "content": "Be kind."}]}, {}, ""),
        ({}, {"message": {"content": None, "refusal": "I cannot"}}, "the answer is not only text (refusal)"),
        ({}, {"message": {"content": None, "audio": {"id": "a"}}}, "the answer is not only text (audio)"),
        ({}, {"finish_reason": None}, ""),
    ],
)
def test_of_an_openai_pair_field_by_field(request_: Any, choice: Any, unscored: str) -> None:
    assert read(pair(request_, **choice)).unscored == unscored


def test_a_bound_of_either_name_is_the_bound() -> None:
    assert read(pair({"max_completion_tokens": 16})).sampling["max_tokens"] == 16
    assert read(pair({"max_completion_tokens": 16, "max_tokens": 8})).sampling["max_tokens"] == 8


def test_usage_may_be_null() -> None:
    whole = pair()
    whole["response"]["usage"] = None
    assert (read(whole).output_tokens, read(whole).unscored) == (0, "")


@pytest.mark.parametrize("side", ["request", "response"])
def test_a_side_may_be_json_text(side: str) -> None:
    whole = pair()
    assert read(whole | {side: orjson.dumps(whole[side]).decode()}) == read(whole)
    assert refusal(whole | {side: "words"}) == f"wrong_type: {side}"


@pytest.mark.parametrize("kind", ["text", "input_text", "output_text"])
def test_parts_that_are_text_are_read_by_any_of_their_names(kind: str) -> None:
    parts = [{"type": kind, "text": "Where is "}, "my parcel?"]
    interaction = read(pair({"messages": [{"role": "user", "content": parts}]}))
    assert (interaction.messages[0]["content"], interaction.unscored) == ("Where is my parcel?", "")


def test_parts_that_are_no_text_are_left_out_and_reported() -> None:
    parts = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": "data:"}}]
    interaction = read(pair({"messages": [{"role": "user", "content": parts}]}))
    assert (interaction.messages[0]["content"], interaction.unscored) == (
        "What is this?",
        "the prompt contains parts that are not text",
    )


# OpenInference.


def test_the_answer_of_a_stream_has_no_role_and_is_the_answer() -> None:
    written = {"choices": [{"message": {"content": "shipping"}, "index": 0}], "object": "chat.completion.chunk"}
    interaction = read(
        span({"llm.output_messages.0.message.role": None, "output.value": orjson.dumps(written).decode()}),
    )
    assert (interaction.output, interaction.unscored) == ("shipping", "")


def test_a_message_of_the_prompt_without_a_role_is_read_and_not_scored() -> None:
    more = {"llm.input_messages.1.message.content": "Why?", "llm.input_messages.2.message.role": "user"}
    interaction = read(span(more | {"llm.input_messages.2.message.content": "When?"}))
    assert [turn["content"] for turn in interaction.messages] == ["Where?", "Why?", "When?"]
    assert interaction.unscored == "a message of the prompt has no role (llm.input_messages)"


def test_messages_come_in_the_order_of_their_numbers_also_where_one_is_missing() -> None:
    asked = {f"llm.input_messages.{n}.message.content": f"turn {n}" for n in (10, 2)}
    asked |= {f"llm.input_messages.{n}.message.role": "user" for n in (10, 2)}
    assert [turn["content"] for turn in read(span(asked)).messages] == ["Where?", "turn 2", "turn 10"]


@pytest.mark.parametrize(
    ("changes", "output", "unscored"),
    [
        ({"content": [{"type": "text", "text": "ship"}, {"type": "text", "text": "ping"}]}, "shipping", ""),
        ({"content": [{"type": "image"}]}, "", "the prompt or the answer contains parts that are not text"),
        ({"contents.1.message_content.text": "ping", "contents.0.message_content.text": "ship"}, "shipping", ""),
        (
            {"contents.0.message_content.type": "reasoning"},
            "",
            "the prompt or the answer contains parts that are not text",
        ),
        ({"function_call_name": "f"}, "", "tools are offered or called (llm.tools, message.tool_calls)"),
        ({"reasoning_content": "hm"}, "", "the answer contains reasoning besides its text (reasoning_content)"),
    ],
)
def test_of_a_message_of_a_span_field_by_field(changes: Any, output: str, unscored: str) -> None:
    told = {"llm.output_messages.0.message.content": None}
    interaction = read(span(told | {f"llm.output_messages.0.message.{name}": value for name, value in changes.items()}))
    assert (interaction.output, interaction.unscored) == (output, unscored)


NO_MESSAGES = {
    f"llm.{side}_messages.0.message.{name}": None for side in ("input", "output") for name in ("role", "content")
}


def test_a_span_without_messages_is_read_from_the_bodies_that_it_holds() -> None:
    asked = {"messages": [{"role": "system", "content": "Route."}, {"role": "user", "content": "Where?"}]}
    values = {"input.value": orjson.dumps(asked).decode(), "output.value": orjson.dumps(pair()["response"]).decode()}
    interaction = read(span(NO_MESSAGES | values))
    assert ([turn["content"] for turn in interaction.messages], interaction.output) == (
        ["Route.", "Where?"],
        "shipping",
    )
    assert interaction.unscored == "the prompt is raw text (input.value), and no prompt token ids were recorded"


def test_a_span_of_a_completion_is_read_from_its_prompts_and_choices() -> None:
    values = {"llm.prompts.0.prompt.text": "Where?", "llm.choices.0.completion.text": "shipping"}
    interaction = read(span(NO_MESSAGES | values | {"input.value": "{}", "output.value": "{}"}))
    assert (interaction.messages[0]["content"], interaction.output) == ("Where?", "shipping")
    assert interaction.unscored.startswith("the prompt is raw text")


def test_a_span_without_messages_whose_value_is_json_of_its_own_is_that_text() -> None:
    values = {"input.value": "Where?", "output.value": '{"queue": "shipping"}'}
    assert read(span(NO_MESSAGES | values)).output == '{"queue": "shipping"}'


# OpenTelemetry.


def of_body(written: Any, attributes: Any = None) -> dict[str, Any]:
    return event(attributes, body=written)


@pytest.mark.parametrize(
    "written",
    [
        any_value(GENAI),
        {"stringValue": orjson.dumps(GENAI).decode()},
        {"bytesValue": base64.b64encode(orjson.dumps(GENAI)).decode()},
        any_value({"gen_ai": {name.removeprefix("gen_ai."): value for name, value in GENAI.items()}}),
        orjson.dumps(GENAI).decode(),
        GENAI,
    ],
    ids=["kvlistValue", "stringValue", "bytesValue", "nested", "JSON", "an object"],
)
def test_a_body_instead_of_attributes_is_read_in_every_shape_of_any_value(written: Any) -> None:
    assert read(of_body(written)) == read(otel())


def test_a_body_besides_attributes_is_read_too_and_attributes_come_first() -> None:
    messages = {name: value for name, value in GENAI.items() if name.endswith("messages")}
    rest = [told(name, value) for name, value in GENAI.items() if name not in messages]
    assert read(of_body(any_value(messages), rest)) == read(otel())
    assert read(otel(body=any_value({"gen_ai.request.model": "another"}))).adapter == "ticket-router"


def test_a_body_that_is_a_sentence_is_ignored() -> None:
    assert read(otel(body={"stringValue": "a request was served"})) == read(otel())


@pytest.mark.parametrize("wrong", [{"bytesValue": "no base64!"}, {"arrayValue": 5}, {"kvlistValue": {"values": 5}}, {}])
def test_a_value_that_is_not_of_its_kind_is_reported(wrong: Any) -> None:
    attributes = [told(*item) for item in GENAI.items() if item[0] != "gen_ai.output.messages"]
    why = refusal(event([*attributes, {"key": "gen_ai.output.messages", "value": wrong}]))
    assert why.endswith(": gen_ai.output.messages")


@pytest.mark.parametrize("operation", ["invoke_agent", "execute_tool", "embeddings", "create_agent"])
def test_an_agents_span_is_skipped_because_its_models_span_has_the_answer(operation: str) -> None:
    both = otel()
    (record,) = both["resourceLogs"][0]["scopeLogs"][0]["logRecords"]
    (other,) = otel({"gen_ai.operation.name": operation})["resourceLogs"][0]["scopeLogs"][0]["logRecords"]
    both["resourceLogs"][0]["scopeLogs"][0]["logRecords"] = [other, record]
    assert read(both) == read(otel())
    assert refusal(otel({"gen_ai.operation.name": operation})).startswith("unknown_schema")
    bare = {"name": "x", "attributes": GENAI | {"gen_ai.operation.name": operation}}
    assert refusal(bare).startswith("unknown_schema")


# CloudEvents.


def structured(half: Message, **data: Any) -> Message:
    told = {name[3:]: text.decode() for name, text in half.headers.items() if name.startswith("ce_")}
    return Message(half.offset, half.at, None, orjson.dumps(told | data), {"pod": half.headers.get("pod", b"")})


def joined(*halves: Message) -> Any:
    decoder = Decoder()
    request, response = (only(decoder, half) for half in halves)
    assert isinstance(request, LoggedHalf) and isinstance(response, LoggedHalf)
    return decoder.join(request, response)


def in_base64(half: Message) -> Message:
    return structured(half, data_base64=base64.b64encode(half.value or b"").decode())


def as_text(half: Message) -> Message:
    return structured(half, data=(half.value or b"").decode(), datacontenttype="text/plain")


def as_object(half: Message) -> Message:
    return structured(half, data=orjson.loads(half.value or b""))


@pytest.mark.parametrize("shape", [as_object, in_base64, as_text])
def test_an_event_is_the_same_however_it_carries_its_data(shape: Any) -> None:
    request, response = example("kserve")
    assert joined(shape(request), shape(response)) == joined(request, response)
    assert joined(shape(request), response) == joined(request, response), "one in each mode"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"data_base64": "no base64!"}, "not_json: at character 0"),
        ({"data_base64": base64.b64encode(b"\x0a\x05proto").decode()}, "not_json: at character 1"),
        ({"data_base64": 5}, "wrong_type: data"),
        ({"data": [1]}, "wrong_type: data"),
        ({"data": "<xml/>", "datacontenttype": "application/xml"}, "not_json: at character 0"),
    ],
)
def test_data_that_is_no_json_is_rejected(data: Any, words: str) -> None:
    (found,) = Decoder().read(structured(example("kserve")[0], **data), PLACE)
    assert isinstance(found, Unreadable) and str(found) == words


@pytest.mark.parametrize("shape", [lambda half: half, in_base64, as_text])
def test_a_streamed_response_is_logged_as_its_events_and_is_their_answer(shape: Any) -> None:
    """KServe's logger writes what the engine sent, and a stream is sent as events."""
    request, response = example("kserve")
    told = orjson.loads(response.value or b"")
    (choice,) = told.pop("choices")
    chunks = [
        told | {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
        for delta, reason in ((choice["message"], None), ({}, "stop"))
    ]
    events = b"".join(b"data: " + orjson.dumps(one) + b"\n\n" for one in chunks) + b"data: [DONE]\n\n"
    streamed = Message(response.offset, response.at, None, events, response.headers)
    assert joined(request, shape(streamed)) == joined(request, response)


@pytest.mark.parametrize("time", [None, "", "0001-01-01T00:00:00Z"])
def test_an_event_without_a_time_has_kafkas(time: Any) -> None:
    half = only(Decoder(), structured(example("kserve")[0], time=time, data={"model": "ticket-router"}))
    assert half.at == 50.0


def test_halves_without_an_id_are_rejected() -> None:
    half = structured(example("kserve")[0], id="", data={})
    with pytest.raises(Unreadable) as caught:
        only(Decoder(), half)
    assert caught.value.reason == RejectionReason.MISSING_FIELD
