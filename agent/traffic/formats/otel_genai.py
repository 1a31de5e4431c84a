"""OpenTelemetry's GenAI event ``gen_ai.client.inference.operation.details``, or a span with the same attributes.

Read as JSON in two shapes: the event itself (name, attributes, timestamp), or an OTLP envelope of logs or traces with
any number of them; each is a request, records and spans of other kinds are passed over. The key of an envelope can name
one adapter at most: where it does, and the envelope holds several requests, it is set aside unless ``kafka.format``
says otel_genai. The adapter is ``gen_ai.request.model``, a group ``gen_ai.conversation.id``, else ``session.id`` or
``user.id``. An event's body is read beside its attributes. Spans of agents and tools are passed over: the answer in
them is that of a model's own span. Attribute names are our own constants: the conventions are in development, and their
packages have moved twice.

Source: open-telemetry/semantic-conventions-genai, docs/gen-ai/gen-ai-events.md (status: Development).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.errors import Unreadable
from agent.kafka.contract import Message, TopicPartition
from agent.records import RejectionReason
from agent.traffic import answers, json_fields, otlp, scorable
from agent.traffic.json_fields import Body, Chat
from probes.scoring.interaction import Interaction

NAME = "otel_genai"
EVENT = "gen_ai.client.inference.operation.details"
_REQUEST = "gen_ai.request."
# Of gen_ai.operation.name: what is no call of a model, though it may tell one and what was written.
NO_CALLS = ("create_agent", "invoke_agent", "execute_tool", "invoke_workflow", "embeddings", "retrieval", "plan")


def guess(message: Message, body: Body) -> bool:  # noqa: ARG001 - one shape for all formats
    return otlp.is_envelope(body) or _is_ours(body)


def split(body: Body) -> list[Body]:
    """Its requests, one a body. Raises Unreadable."""
    return otlp.split(body, _is_ours)


def read(message: Message, body: Body, partition: TopicPartition) -> Interaction:
    """One event as an Interaction. Raises Unreadable with a reason of RejectionReason."""
    event, resource = otlp.only(body)
    told = _attributes(event)
    if told.get("gen_ai.operation.name") in NO_CALLS:
        raise Unreadable(
            RejectionReason.UNKNOWN_SCHEMA, "another operation than a model's answer in gen_ai.operation.name"
        )
    answer = _output(told)
    finish_reason = _finish_reason(told, answer)
    asked = _asked(told)
    return Interaction(
        request_id=_request_id(event, told),
        at=_at(event, message),
        adapter=json_fields.required(told, "gen_ai.request.model"),
        base="",
        pod=json_fields.pod_of(message) or json_fields.pod_name(resource.get("k8s.pod.name")),
        messages=_prompt(told),
        output=json_fields.content_of(answer.get("parts", answer.get("content")), "gen_ai.output.messages"),
        finish_reason=finish_reason,
        sampling=json_fields.sampling(asked),
        prompt_tokens=json_fields.count(told, "gen_ai.usage.input_tokens"),
        output_tokens=json_fields.count(told, "gen_ai.usage.output_tokens"),
        topic=partition[0],
        partition=partition[1],
        offset=message.offset,
        unscored=scorable.of_request(asked, (), ()) or _why_not_all(told, answer, finish_reason),
        group=json_fields.group_of(told, "gen_ai.conversation.id", "session.id", "user.id"),
    )


def _is_ours(event: Body) -> bool:
    """An event of this name; or whatever tells a model and what it wrote, which leaves out embeddings and tools."""
    told = _attributes(event)
    if told.get("gen_ai.operation.name") in NO_CALLS:
        return False
    return _name(event) == EVENT or ("gen_ai.request.model" in told and "gen_ai.output.messages" in told)


def _asked(told: Body) -> Body:
    """The request's parameters by their usual names."""
    asked = dict(json_fields.under(told, _REQUEST))
    asked |= {"choice": None, "n": told.get(f"{_REQUEST}choice.count"), "stop": asked.pop("stop_sequences", None)}
    turns = [
        *_list(told, "gen_ai.input.messages"),
        {"parts": json_fields.parsed(told.get("gen_ai.system_instructions"))},
    ]
    asked |= {"tools": json_fields.parsed(told.get("gen_ai.tool.definitions")), "messages": turns}
    kind = told.get("gen_ai.output.type", told.get("gen_ai.openai.request.response_format"))
    return asked | {"response_format": None if kind == "text" else kind}


def _why_not_all(told: Body, answer: Body, finish_reason: str) -> str:
    """Why the first answer's text is not all that was written once, "" where it is, as far as the event tells."""
    if told.get("error.type"):
        return "its answer was broken off (error.type)"
    if told.get("gen_ai.operation.name") == "text_completion":
        return "its prompt is one text (text_completion), and no token ids tell how it was read"
    if len(_list(told, "gen_ai.output.messages")) > 1:
        return "the answer is one of several (gen_ai.output.messages)"
    if json_fields.count(told, "gen_ai.usage.reasoning.output_tokens"):
        return "the answer holds reasoning apart from its text (gen_ai.usage.reasoning.output_tokens)"
    return scorable.of_answer(answer, finish_reason)


def _name(event: Body) -> object:
    return event.get("eventName", event.get("event_name", event.get("name")))


def _attributes(event: Body) -> Body:
    """By full name; an exporter may write an event's body instead of attributes, or a part of them there."""
    told, body = json_fields.attributes(event.get("attributes")), event.get("body")
    return {**json_fields.attributes(body), **told} if body else told


def _request_id(event: Body, told: Body) -> str:
    """The engine's; else that of the span; "" where neither is told."""
    response = json_fields.optional(told, "gen_ai.response.id", str)
    span = json_fields.optional(event, "spanId", str) or json_fields.optional(event, "span_id", str)
    trace = json_fields.optional(event, "traceId", str) or json_fields.optional(event, "trace_id", str) or ""
    return response or (f"{trace}:{span}" if span else "")


def _at(event: Body, message: Message) -> float:
    """OTLP writes nanoseconds as text, 0 for unknown; other exporters ISO 8601; without any the record's own time."""
    names = ("timeUnixNano", "time_unix_nano", "endTimeUnixNano", "startTimeUnixNano", "observedTimeUnixNano")
    texts = ("timestamp", "end_time", "observed_timestamp")
    return json_fields.recorded_time(message, *((name, event.get(name)) for name in (*names, *texts)))


def _prompt(told: Body) -> Chat:
    """System instructions come as parts of their own, apart from the chat."""
    turns = json_fields.chat(_list(told, "gen_ai.input.messages"), "gen_ai.input.messages")
    system = json_fields.parsed(told.get("gen_ai.system_instructions"))
    if not system:
        return turns
    return ({"role": "system", "content": json_fields.content_of(system, "gen_ai.system_instructions")}, *turns)


def _output(told: Body) -> Mapping[str, Any]:
    if told.get("error.type") and not told.get("gen_ai.output.messages"):
        raise Unreadable(RejectionReason.ERROR_ANSWER, answers.ERROR)
    written = _list(told, "gen_ai.output.messages")
    if not written or not isinstance(written[0], dict):
        raise Unreadable(RejectionReason.WRONG_TYPE, "gen_ai.output.messages")
    return dict(written[0])


def _list(told: Body, name: str) -> list[Any]:
    found = json_fields.parsed(told.get(name))
    if found is None:
        raise Unreadable(RejectionReason.MISSING_FIELD, name)
    if not isinstance(found, list):
        raise Unreadable(RejectionReason.WRONG_TYPE, name)
    return found


def _finish_reason(told: Body, answer: Body) -> str:
    reasons = told.get("gen_ai.response.finish_reasons")
    first = reasons[0] if isinstance(reasons, list) and reasons else answer.get("finish_reason")
    return first if isinstance(first, str) else ""
