"""Small records of each format, which tests change field by field."""

from __future__ import annotations

from typing import Any

import orjson

from agent.kafka.contract import Message
from agent.traffic.decoder import Decoder
from probes.scoring.interaction import Interaction
from tests.agent.traffic.formats.records import PLACE, example, only


def body(file: str) -> dict[str, Any]:
    """The example's value, to be changed."""
    found: dict[str, Any] = orjson.loads(example(file)[0].value or b"")
    return found


def message(value: Any, **headers: bytes) -> Message:
    return Message(7, 50.0, None, value if isinstance(value, bytes) else orjson.dumps(value), headers)


def read(value: Any, **headers: bytes) -> Interaction:
    """By the way that production reads. Raises Unreadable."""
    seen = only(Decoder(), message(value, **headers), PLACE)
    assert isinstance(seen, Interaction)
    return seen


def pair(request: Any = None, response: Any = None, **choice: Any) -> dict[str, Any]:
    """A chat without token ids; request, response, choice: fields over the usual ones, None takes one out."""
    usual = {"index": 0, "message": {"role": "assistant", "content": "shipping"}, "finish_reason": "stop"}
    asked = {"model": "ticket-router", "messages": [{"role": "user", "content": "Where?"}], "temperature": 0.7}
    told = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_001,
        "choices": [_over(usual, choice)],
    }
    return {"request": _over(asked, request or {}), "response": _over(told, response or {})}


def completion(request: Any = None, response: Any = None, **choice: Any) -> dict[str, Any]:
    """Likewise of the older route: a prompt and a text."""
    asked = {"messages": None, "prompt": "Where?"} | (request or {})
    return pair(
        asked, {"object": "text_completion"} | (response or {}), **{"message": None, "text": "shipping"} | choice
    )


def _over(usual: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in (usual | changes).items() if value is not None}


def told(name: str, value: Any) -> dict[str, Any]:
    """One attribute as OTLP writes it."""
    return {"key": name, "value": any_value(value)}


def any_value(value: Any) -> dict[str, Any]:
    if isinstance(value, list):
        return {"arrayValue": {"values": [any_value(one) for one in value]}}
    if isinstance(value, dict):
        return {"kvlistValue": {"values": [told(*item) for item in value.items()]}}
    if isinstance(value, int):
        return {"intValue": str(value)}
    return {"doubleValue": value} if isinstance(value, float) else {"stringValue": value}


def event(attributes: Any, **fields: Any) -> dict[str, Any]:
    """One event of OpenTelemetry in an envelope. attributes: as OTLP writes them, None takes them out."""
    name = "gen_ai.client.inference.operation.details"
    record = {"eventName": name, "timeUnixNano": "1700000001000000000", "attributes": attributes} | fields
    return {"resourceLogs": [{"scopeLogs": [{"logRecords": [_over(record, {})]}]}]}


GENAI: dict[str, Any] = {
    "gen_ai.operation.name": "chat",
    "gen_ai.request.model": "ticket-router",
    "gen_ai.response.id": "chatcmpl-1",
    "gen_ai.request.temperature": 0.7,
    "gen_ai.input.messages": [{"role": "user", "parts": [{"type": "text", "content": "Where?"}]}],
    "gen_ai.output.messages": [{"role": "assistant", "parts": [{"type": "text", "content": "shipping"}]}],
}


def otel(changes: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    return event([told(*item) for item in _over(GENAI, changes or {}).items()], **fields)


def span(changes: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """One span of OpenInference; changes: of its attributes, which are flat."""
    usual = {
        "openinference.span.kind": "LLM",
        "llm.model_name": "ticket-router",
        "llm.input_messages.0.message.role": "user",
        "llm.input_messages.0.message.content": "Where?",
        "llm.output_messages.0.message.role": "assistant",
        "llm.output_messages.0.message.content": "shipping",
        "llm.invocation_parameters": '{"temperature": 0.7}',
    }
    record = {"context": {"trace_id": "t", "span_id": "s"}, "end_time": "2023-11-14T22:13:21Z"}
    return _over(record | {"attributes": _over(usual, changes or {})}, fields)
