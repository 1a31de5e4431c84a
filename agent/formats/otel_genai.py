"""OpenTelemetry's GenAI event ``gen_ai.client.inference.operation.details``, one a record.

Read as JSON in two shapes: the event itself (name, attributes, timestamp), or an OTLP logs envelope that holds exactly
one log record (give the collector's batch processor ``send_batch_max_size: 1``: an envelope of several is several
requests under one key, which could not be counted). The adapter is ``gen_ai.request.model``. Attribute names are our
own constants: the conventions are in development, and their packages have moved twice.

Source: open-telemetry/semantic-conventions-genai, docs/gen-ai/gen-ai-events.md (status: Development).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent import fields
from agent.errors import Unreadable
from agent.fields import Body, Chat
from agent.records import AsideReason, Interaction
from agent.topic import Message, Place

NAME = "otel_genai"
EVENT = "gen_ai.client.inference.operation.details"
_REQUEST = "gen_ai.request."


def guess(message: Message, body: Body) -> bool:  # noqa: ARG001 - one shape for all formats
    return "resourceLogs" in body or _name(body) == EVENT or "gen_ai.request.model" in _attributes(body)


def read(message: Message, body: Body, place: Place) -> Interaction:
    """One event as an Interaction. Raises Unreadable with a reason of AsideReason."""
    event, resource = _event(body)
    told = _attributes(event)
    answer = _output(told)
    return Interaction(
        request_id=_request_id(event, told),
        at=_at(event, message),
        adapter=fields.required(told, "gen_ai.request.model"),
        base="",
        pod=fields.pod_of(message) or str(resource.get("k8s.pod.name", ""))[:253],
        messages=_prompt(told),
        output=fields.content_of(answer.get("parts", answer.get("content")), "gen_ai.output.messages"),
        finish_reason=_finish_reason(told, answer),
        sampling=fields.sampling({name.removeprefix(_REQUEST): value for name, value in told.items()}),
        prompt_tokens=fields.count(told, "gen_ai.usage.input_tokens"),
        output_tokens=fields.count(told, "gen_ai.usage.output_tokens"),
        topic=place[0],
        partition=place[1],
        offset=message.offset,
    )


def _event(body: Body) -> tuple[Body, Body]:
    """The event and its resource's attributes."""
    if "resourceLogs" not in body:
        return body, fields.attributes(fields.mapping(body, "resource").get("attributes"))
    try:
        found = [
            (record, fields.attributes((resource.get("resource") or {}).get("attributes")))
            for resource in body["resourceLogs"]
            for scope in resource["scopeLogs"]
            for record in scope["logRecords"]
        ]
    except (AttributeError, KeyError, TypeError):
        raise Unreadable(AsideReason.WRONG_TYPE, "resourceLogs") from None
    if len(found) != 1:
        raise Unreadable(AsideReason.WRONG_TYPE, f"{len(found)} log records in one message, 1 wanted")
    if not isinstance(found[0][0], dict):
        raise Unreadable(AsideReason.WRONG_TYPE, "logRecords")
    return found[0]


def _name(event: Body) -> object:
    return event.get("eventName", event.get("event_name", event.get("name")))


def _attributes(event: Body) -> Body:
    """By full name; an exporter that writes an event's body instead of attributes is read too."""
    return fields.attributes(event.get("attributes")) or fields.attributes(event.get("body"))


def _request_id(event: Body, told: Body) -> str:
    response = fields.optional(told, "gen_ai.response.id", str)
    span = fields.optional(event, "spanId", str) or fields.optional(event, "span_id", str)
    trace = fields.optional(event, "traceId", str) or fields.optional(event, "trace_id", str) or ""
    if not response and not span:
        raise Unreadable(AsideReason.MISSING_FIELD, "gen_ai.response.id")
    return response or f"{trace}:{span}"


def _at(event: Body, message: Message) -> float:
    """OTLP writes nanoseconds as text; other exporters ISO 8601; without either the record's own time."""
    nanos = event.get("timeUnixNano") or event.get("observedTimeUnixNano") or event.get("time_unix_nano")
    if nanos is not None:
        return fields.nanoseconds(nanos, "timeUnixNano")
    return fields.seconds(event["timestamp"], "timestamp") if event.get("timestamp") is not None else message.at


def _prompt(told: Body) -> Chat:
    """System instructions come as parts of their own, apart from the chat."""
    turns = fields.chat(_list(told, "gen_ai.input.messages"), "gen_ai.input.messages")
    system = fields.parsed(told.get("gen_ai.system_instructions"))
    if not system:
        return turns
    return ({"role": "system", "content": fields.content_of(system, "gen_ai.system_instructions")}, *turns)


def _output(told: Body) -> Mapping[str, Any]:
    answers = _list(told, "gen_ai.output.messages")
    if not answers or not isinstance(answers[0], dict):
        raise Unreadable(AsideReason.WRONG_TYPE, "gen_ai.output.messages")
    return dict(answers[0])


def _list(told: Body, name: str) -> list[Any]:
    found = fields.parsed(told.get(name))
    if found is None:
        raise Unreadable(AsideReason.MISSING_FIELD, name)
    if not isinstance(found, list):
        raise Unreadable(AsideReason.WRONG_TYPE, name)
    return found


def _finish_reason(told: Body, answer: Body) -> str:
    reasons = told.get("gen_ai.response.finish_reasons")
    first = reasons[0] if isinstance(reasons, list) and reasons else answer.get("finish_reason")
    return first if isinstance(first, str) else ""
