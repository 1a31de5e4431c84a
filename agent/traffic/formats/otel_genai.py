"""OpenTelemetry's GenAI event ``gen_ai.client.inference.operation.details``, or a span with the same attributes.

Read as JSON in two shapes: the event itself (name, attributes, timestamp), or an OTLP envelope of logs or traces with
any number of them; each is a request, and records and spans of other kinds are skipped. The key of an envelope can name
at most one adapter: where it does, and the envelope contains several requests, it is rejected unless ``kafka.format``
is otel_genai. The adapter is ``gen_ai.request.model``, the group ``gen_ai.conversation.id``, else ``session.id`` or
``user.id``. An event's body is read in addition to its attributes. Spans of agents and tools are skipped: their answer
is that of a model's own span. Attribute names are constants of this file: the conventions are in development, and their
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
# Of gen_ai.operation.name: operations that are no call of a model, although they may carry a model and its answer.
NO_MODEL_CALLS = ("create_agent", "invoke_agent", "execute_tool", "invoke_workflow", "embeddings", "retrieval", "plan")


def guess(message: Message, body: Body) -> bool:  # noqa: ARG001 - the same signature for all formats
    return otlp.is_envelope(body) or _is_request(body)


def split(body: Body) -> list[Body]:
    """Its requests, one a body. Raises Unreadable."""
    return otlp.split(body, _is_request)


def read(message: Message, body: Body, partition: TopicPartition) -> Interaction:
    """One event as an Interaction. Raises Unreadable with a reason of RejectionReason."""
    event, resource = otlp.only(body)
    attributes = _attributes(event)
    if attributes.get("gen_ai.operation.name") in NO_MODEL_CALLS:
        raise Unreadable(
            RejectionReason.UNKNOWN_SCHEMA, "another operation than a model's answer in gen_ai.operation.name"
        )
    answer = _output(attributes)
    finish_reason = _finish_reason(attributes, answer)
    parameters = _parameters(attributes)
    return Interaction(
        request_id=_request_id(event, attributes),
        at=_at(event, message),
        adapter=json_fields.required(attributes, "gen_ai.request.model"),
        base="",
        pod=json_fields.pod_of(message) or json_fields.pod_name(resource.get("k8s.pod.name")),
        messages=_prompt(attributes),
        output=json_fields.content_of(answer.get("parts", answer.get("content")), "gen_ai.output.messages"),
        finish_reason=finish_reason,
        sampling=json_fields.sampling(parameters),
        prompt_tokens=json_fields.count(attributes, "gen_ai.usage.input_tokens"),
        output_tokens=json_fields.count(attributes, "gen_ai.usage.output_tokens"),
        topic=partition[0],
        partition=partition[1],
        offset=message.offset,
        unscored=scorable.of_request(parameters, (), ()) or _why_not_all(attributes, answer, finish_reason),
        group=json_fields.group_of(attributes, "gen_ai.conversation.id", "session.id", "user.id"),
    )


def _is_request(event: Body) -> bool:
    """An event of this name, or anything with a model and its output, which excludes embeddings and tools."""
    attributes = _attributes(event)
    if attributes.get("gen_ai.operation.name") in NO_MODEL_CALLS:
        return False
    return _name(event) == EVENT or ("gen_ai.request.model" in attributes and "gen_ai.output.messages" in attributes)


def _parameters(attributes: Body) -> Body:
    """The request's parameters by their usual names."""
    parameters = dict(json_fields.under(attributes, _REQUEST))
    stop = parameters.pop("stop_sequences", None)
    parameters |= {"choice": None, "n": attributes.get(f"{_REQUEST}choice.count"), "stop": stop}
    turns = [
        *_list(attributes, "gen_ai.input.messages"),
        {"parts": json_fields.parsed(attributes.get("gen_ai.system_instructions"))},
    ]
    parameters |= {"tools": json_fields.parsed(attributes.get("gen_ai.tool.definitions")), "messages": turns}
    kind = attributes.get("gen_ai.output.type", attributes.get("gen_ai.openai.request.response_format"))
    return parameters | {"response_format": None if kind == "text" else kind}


def _why_not_all(attributes: Body, answer: Body, finish_reason: str) -> str:
    """Why the first answer's text is not everything that was generated, "" where it is, as far as the event shows."""
    if attributes.get("error.type"):
        return "the answer was aborted (error.type)"
    if attributes.get("gen_ai.operation.name") == "text_completion":
        return "the prompt is raw text (text_completion), and no prompt token ids were recorded"
    if len(_list(attributes, "gen_ai.output.messages")) > 1:
        return "the answer is one of several (gen_ai.output.messages)"
    if json_fields.count(attributes, "gen_ai.usage.reasoning.output_tokens"):
        return "the answer contains reasoning besides its text (gen_ai.usage.reasoning.output_tokens)"
    return scorable.of_answer(answer, finish_reason)


def _name(event: Body) -> object:
    return event.get("eventName", event.get("event_name", event.get("name")))


def _attributes(event: Body) -> Body:
    """By full name; an exporter may write some or all of them into the event's body."""
    attributes, body = json_fields.attributes(event.get("attributes")), event.get("body")
    return {**json_fields.attributes(body), **attributes} if body else attributes


def _request_id(event: Body, attributes: Body) -> str:
    """The engine's id; else that of the span; "" where there is neither."""
    response = json_fields.optional(attributes, "gen_ai.response.id", str)
    span = json_fields.optional(event, "spanId", str) or json_fields.optional(event, "span_id", str)
    trace = json_fields.optional(event, "traceId", str) or json_fields.optional(event, "trace_id", str) or ""
    return response or (f"{trace}:{span}" if span else "")


def _at(event: Body, message: Message) -> float:
    """OTLP has nanoseconds as text, 0 for unknown; others ISO 8601; else it is the record's Kafka timestamp."""
    names = ("timeUnixNano", "time_unix_nano", "endTimeUnixNano", "startTimeUnixNano", "observedTimeUnixNano")
    texts = ("timestamp", "end_time", "observed_timestamp")
    return json_fields.recorded_time(message, *((name, event.get(name)) for name in (*names, *texts)))


def _prompt(attributes: Body) -> Chat:
    """System instructions are recorded in an attribute of their own, outside the chat."""
    turns = json_fields.chat(_list(attributes, "gen_ai.input.messages"), "gen_ai.input.messages")
    system = json_fields.parsed(attributes.get("gen_ai.system_instructions"))
    if not system:
        return turns
    return ({"role": "system", "content": json_fields.content_of(system, "gen_ai.system_instructions")}, *turns)


def _output(attributes: Body) -> Mapping[str, Any]:
    if attributes.get("error.type") and not attributes.get("gen_ai.output.messages"):
        raise Unreadable(RejectionReason.ERROR_ANSWER, answers.ERROR)
    messages = _list(attributes, "gen_ai.output.messages")
    if not messages or not isinstance(messages[0], dict):
        raise Unreadable(RejectionReason.WRONG_TYPE, "gen_ai.output.messages")
    return dict(messages[0])


def _list(attributes: Body, name: str) -> list[Any]:
    value = json_fields.parsed(attributes.get(name))
    if value is None:
        raise Unreadable(RejectionReason.MISSING_FIELD, name)
    if not isinstance(value, list):
        raise Unreadable(RejectionReason.WRONG_TYPE, name)
    return value


def _finish_reason(attributes: Body, answer: Body) -> str:
    reasons = attributes.get("gen_ai.response.finish_reasons")
    first = reasons[0] if isinstance(reasons, list) and reasons else answer.get("finish_reason")
    return first if isinstance(first, str) else ""
