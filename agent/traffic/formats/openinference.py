"""OpenInference: LLM spans as JSON, their attributes flat, nested, or in OTLP's list of keys.

One span a record, or an OTLP envelope of traces with any number; spans of other kinds in it are passed over. The
adapter is ``llm.model_name`` (or ``llm.request.model_name``), a group ``session.id``, else ``user.id``. Messages are
numbered attributes (``llm.input_messages.0.message.role`` ...); where a span has none, the texts of a completion
(``llm.prompts``, ``llm.choices``), else ``input.value`` and ``output.value``, are the texts, embedded and not scored.
Request parameters are the JSON text in ``llm.invocation_parameters``.

Source: Arize-ai/openinference, spec/semantic_conventions.md.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from agent.errors import Unreadable
from agent.kafka.contract import Message, Place
from agent.records import AsideReason, Interaction
from agent.traffic import json_fields, otlp, scorable
from agent.traffic.json_fields import Body, Chat

NAME = "openinference"
KIND = "openinference.span.kind"


def guess(message: Message, body: Body) -> bool:  # noqa: ARG001 - one shape for all formats
    return _has_kind(body) or (otlp.is_envelope(body) and any(map(_has_kind, otlp.records(body))))


def split(body: Body) -> list[Body]:
    """Its LLM spans, one a body. Raises Unreadable."""
    return otlp.split(body, lambda span: json_fields.attributes(span.get("attributes")).get(KIND) == "LLM")


def read(message: Message, body: Body, place: Place) -> Interaction:
    """One span as an Interaction. Raises Unreadable with a reason of AsideReason."""
    span, resource = otlp.only(body)
    told = json_fields.attributes(span.get("attributes"))
    if told.get(KIND) != "LLM":
        raise Unreadable(AsideReason.UNKNOWN_SCHEMA, f"span of another kind than LLM in {KIND}")
    model = "llm.model_name" if told.get("llm.model_name") else "llm.request.model_name"
    given = json_fields.parsed(told.get("llm.invocation_parameters"))
    asked = dict(given) if isinstance(given, dict) else {}
    pod = told.get("k8s.pod.name", resource.get("k8s.pod.name"))
    return Interaction(
        request_id=_span_id(span),
        at=_at(span, message),
        adapter=json_fields.required(told, model),
        base="",
        pod=json_fields.pod_of(message) or json_fields.pod_name(pod),
        messages=_prompt(told),
        output=_output(told),
        finish_reason=json_fields.optional(told, "llm.finish_reason", str) or "",
        sampling=json_fields.sampling(asked),
        prompt_tokens=json_fields.count(told, "llm.token_count.prompt"),
        output_tokens=json_fields.count(told, "llm.token_count.completion"),
        topic=place[0],
        partition=place[1],
        offset=message.offset,
        unscored=scorable.of_request(asked, (), ()) or _why_not_told(told),
        group=json_fields.group_of(told, "session.id", "user.id"),
    )


def _has_kind(span: Body) -> bool:
    return KIND in json_fields.attributes(span.get("attributes"))


def _why_not_told(told: Body) -> str:
    """Why the attributes do not tell the whole request and answer, "" where they do."""
    if not _turns(told, "llm.input_messages"):
        return "its prompt is one text (input.value), and no token ids tell how it was read"
    if len(_turns(told, "llm.output_messages")) > 1:
        return "the answer is one of several (llm.output_messages)"
    for name, value in told.items():
        if name.startswith("llm.tools.") or ".message.tool_calls." in name:
            return "tools are offered or called (llm.tools, message.tool_calls)"
        if name.endswith(".message_content.type") and value != "text":
            return "the prompt or the answer holds parts that are no text"
    if json_fields.count(told, "llm.token_count.completion_details.reasoning"):
        return "the answer holds reasoning apart from its text (llm.token_count.completion_details.reasoning)"
    return scorable.of_answer(_said_apart(told), json_fields.optional(told, "llm.finish_reason", str) or "")


def _said_apart(told: Body) -> Body:
    """What an answer holds beside its text, which no attribute tells: where the whole answer is in ``output.value``."""
    whole = json_fields.parsed(told.get("output.value"))
    choices = whole.get("choices") if isinstance(whole, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    return {**message, "content": None} if isinstance(message, dict) else {}


def _span_id(body: Body) -> str:
    context = json_fields.mapping(body, "context") or body
    trace = context.get("trace_id", context.get("traceId", ""))
    span = context.get("span_id", context.get("spanId"))
    if not isinstance(span, str) or not span or not isinstance(trace, str):
        raise Unreadable(AsideReason.MISSING_FIELD, "span_id")
    return f"{trace}:{span}"


def _at(body: Body, message: Message) -> float:
    nanos = body.get("endTimeUnixNano", body.get("startTimeUnixNano"))
    if nanos is not None:
        return json_fields.nanoseconds(nanos, "endTimeUnixNano")
    at = body.get("end_time") or body.get("start_time")
    return message.at if at is None else json_fields.seconds(at, "end_time")


def _prompt(told: Body) -> Chat:
    turns = _turns(told, "llm.input_messages")
    name = "llm.prompts.0.prompt.text" if told.get("llm.prompts.0.prompt.text") else "input.value"
    return turns or ({"role": "user", "content": json_fields.text(told, name)},)


def _output(told: Body) -> str:
    turns = _turns(told, "llm.output_messages")
    name = "llm.choices.0.completion.text" if "llm.choices.0.completion.text" in told else "output.value"
    return turns[0]["content"] if turns else json_fields.text(told, name)


def _turns(told: Body, prefix: str) -> Chat:
    """Numbered messages up to the first number that has no role."""
    found: list[Mapping[str, str]] = []
    for number in itertools.count():
        here = f"{prefix}.{number}.message"
        role = told.get(f"{here}.role")
        if not isinstance(role, str):
            return tuple(found)
        found.append({"role": role, "content": _content(told, here)})
    return ()


def _content(told: Body, here: str) -> str:
    whole = told.get(f"{here}.content")
    if isinstance(whole, str):
        return whole
    texts = []
    for number in itertools.count():
        part = told.get(f"{here}.contents.{number}.message_content.text")
        if not isinstance(part, str):
            break
        texts.append(part)
    return "".join(texts)
