"""OpenInference: LLM spans as JSON, their attributes flat, nested, or in OTLP's list of keys.

One span a record, or an OTLP envelope of traces with any number; spans of other kinds in it are skipped. The
adapter is ``llm.model_name`` (or ``llm.request.model_name``), the group ``session.id``, else ``user.id``. Messages are
numbered attributes (``llm.input_messages.0.message.role`` ...; a streamed answer has no role); where a span has none,
the texts are those of a completion (``llm.prompts``, ``llm.choices``), else ``input.value`` and ``output.value``, which
are plain texts, or request and response bodies that contain them; such texts are embedded and not scored. Request
parameters are the JSON text in ``llm.invocation_parameters``, or attributes below that name. A span that ended in an
error and has no answer is an error of the engine.

Source: Arize-ai/openinference, spec/semantic_conventions.md.
"""

from __future__ import annotations

import re
from typing import Any

from agent.errors import Unreadable
from agent.kafka.contract import Message, TopicPartition
from agent.records import RejectionReason
from agent.traffic import answers, json_fields, otlp, scorable
from agent.traffic.formats import openai
from agent.traffic.json_fields import Body, Chat
from probes.scoring.interaction import Interaction

NAME = "openinference"
KIND = "openinference.span.kind"
PARAMETERS = "llm.invocation_parameters"
FAILED_STATUS = ("ERROR", "STATUS_CODE_ERROR", 2)
TOOLS = ("llm.tools", "llm.function_call")
PLAIN_FIELDS = {"role", "content"}
CALLS = ("tool_calls", "function_call")
# The one prompt and the one text of a completion; of several only the first is read.
COMPLETION_PROMPT, COMPLETION_ANSWER = "llm.prompts.0.prompt.text", "llm.choices.0.completion.text"
_NUMBER = re.compile(r"[0-9]{1,6}", re.ASCII)
_PART = re.compile(r"contents\.[0-9]{1,6}\.message_content\.text", re.ASCII)
Turns = list[dict[str, Any]]


def guess(message: Message, body: Body) -> bool:  # noqa: ARG001 - the same signature for all formats
    return _has_kind(body) or (otlp.is_envelope(body) and any(map(_has_kind, otlp.records(body))))


def split(body: Body) -> list[Body]:
    """Its LLM spans, one a body. Raises Unreadable."""
    return otlp.split(body, lambda span: json_fields.attributes(span.get("attributes")).get(KIND) == "LLM")


def read(message: Message, body: Body, partition: TopicPartition) -> Interaction:
    """One span as an Interaction. Raises Unreadable with a reason of RejectionReason."""
    span, resource = otlp.only(body)
    attributes = json_fields.attributes(span.get("attributes"))
    if attributes.get(KIND) != "LLM":
        raise Unreadable(RejectionReason.UNKNOWN_SCHEMA, f"span of another kind than LLM in {KIND}")
    prompt, answer = _messages(attributes)
    if _failed(span) and not answer:
        # Checked before the model's name is required: a failed span may lack it.
        raise Unreadable(RejectionReason.ERROR_ANSWER, answers.ERROR)
    model = "llm.model_name" if attributes.get("llm.model_name") else "llm.request.model_name"
    block, unread = scorable.parameters(attributes.get(PARAMETERS), PARAMETERS)
    parameters = {**json_fields.under(attributes, f"{PARAMETERS}."), **block}
    messages, prompt_ids = _prompt(attributes, prompt)
    pod = attributes.get("k8s.pod.name", resource.get("k8s.pod.name"))
    return Interaction(
        request_id=_span_id(span),
        at=_at(span, message),
        adapter=json_fields.required(attributes, model),
        base="",
        pod=json_fields.pod_of(message) or json_fields.pod_name(pod),
        messages=messages,
        output=_output(attributes, answer),
        finish_reason=json_fields.optional(attributes, "llm.finish_reason", str) or "",
        sampling=json_fields.sampling(parameters),
        prompt_tokens=json_fields.count(attributes, "llm.token_count.prompt"),
        output_tokens=json_fields.count(attributes, "llm.token_count.completion"),
        topic=partition[0],
        partition=partition[1],
        offset=message.offset,
        prompt_token_ids=prompt_ids,
        unscored=unread or scorable.of_request(parameters, (), ()) or _why_not_all(attributes, prompt, answer, span),
        group=json_fields.group_of(attributes, "session.id", "user.id"),
    )


def _has_kind(span: Body) -> bool:
    return json_fields.has_attribute(span.get("attributes"), KIND)


def _why_not_all(attributes: Body, prompt: Turns, answer: Turns, span: Body) -> str:
    """Why the attributes are not the whole request and answer, "" where they are."""
    if not prompt:
        return "the prompt is raw text (input.value), and no prompt token ids were recorded"
    if not all(isinstance(turn.get("role"), str) for turn in prompt):
        return "a message of the prompt has no role (llm.input_messages)"
    if len(answer) > 1:
        return "the answer is one of several (llm.output_messages)"
    if _failed(span):
        return "the answer was aborted (status)"
    if any(name.startswith(TOOLS) for name in attributes):
        return "tools are offered or called (llm.tools, message.tool_calls)"
    for turn in (*prompt, *answer):
        plain = turn.keys() == PLAIN_FIELDS and isinstance(turn["content"], str)
        if not plain and (why := _why_no_text(turn)):
            return why
    if json_fields.count(attributes, "llm.token_count.completion_details.reasoning"):
        return "the answer contains reasoning besides its text (llm.token_count.completion_details.reasoning)"
    message = {**_other_fields(attributes), **(answer[0] if answer else {})}
    return scorable.of_answer(message, json_fields.optional(attributes, "llm.finish_reason", str) or "")


def _why_no_text(turn: Body) -> str:
    """Why a message is not only text, "" where it is."""
    if any(name.startswith(CALLS) for name in turn):
        return "tools are offered or called (llm.tools, message.tool_calls)"
    kinds = (value for name, value in turn.items() if name.endswith("message_content.type"))
    if not scorable.is_text(turn.get("content")) or any(kind != "text" for kind in kinds):
        return "the prompt or the answer contains parts that are not text"
    return ""


def _failed(span: Body) -> bool:
    status = span.get("status")
    return isinstance(status, dict) and (
        status.get("status_code") in FAILED_STATUS or status.get("code") in FAILED_STATUS
    )


def _other_fields(attributes: Body) -> Body:
    """The answer's fields besides its text, which are in no attribute: from the whole response in ``output.value``."""
    response = json_fields.parsed(attributes.get("output.value"))
    choices = response.get("choices") if isinstance(response, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    return {**message, "content": None} if isinstance(message, dict) else {}


def _span_id(body: Body) -> str:
    """ "" where the span has no id."""
    context = json_fields.mapping(body, "context") or body
    trace = context.get("trace_id", context.get("traceId", ""))
    span = context.get("span_id", context.get("spanId"))
    if not isinstance(span, str | None) or not isinstance(trace, str):
        raise Unreadable(RejectionReason.WRONG_TYPE, "span_id")
    return f"{trace}:{span}" if span else ""


def _at(body: Body, message: Message) -> float:
    names = ("endTimeUnixNano", "end_time", "startTimeUnixNano", "start_time")
    return json_fields.recorded_time(message, *((name, body.get(name)) for name in names))


def _prompt(attributes: Body, turns: Turns) -> tuple[Chat, tuple[int, ...]]:
    """The chat, and the prompt's token ids where the request in ``input.value`` has those instead."""
    if turns:
        return tuple({"role": _role(turn, "user"), "content": _content(turn)} for turn in turns), ()
    if attributes.get(COMPLETION_PROMPT):
        return ({"role": "user", "content": json_fields.text(attributes, COMPLETION_PROMPT)},), ()
    request = json_fields.parsed(attributes.get("input.value"))
    if isinstance(request, dict) and request.get("messages"):
        return json_fields.chat(request["messages"], "input.value"), ()
    if isinstance(request, dict) and isinstance(request.get("prompt"), list):
        return (), json_fields.token_ids(request["prompt"], "input.value")
    return ({"role": "user", "content": json_fields.text(attributes, "input.value")},), ()


def _output(attributes: Body, turns: Turns) -> str:
    if turns:
        return _content(turns[0])
    if COMPLETION_ANSWER in attributes:
        return json_fields.text(attributes, COMPLETION_ANSWER)
    response = json_fields.parsed(attributes.get("output.value"))
    if isinstance(response, dict) and "choices" in response:
        return openai.text_of(response)
    return json_fields.text(attributes, "output.value")


def _messages(attributes: Body) -> tuple[Turns, Turns]:
    """The fields of each numbered message of the prompt and of the answer, in the order of the numbers."""
    sides: dict[str, dict[int, dict[str, Any]]] = {"llm.input_messages": {}, "llm.output_messages": {}}
    for name, value in attributes.items():
        before, _, field = name.partition(".message.")
        if field:
            side, _, number = before.rpartition(".")
            if side in sides and _NUMBER.fullmatch(number):
                sides[side].setdefault(int(number), {})[field] = value
    prompt, answer = ([turns[number] for number in sorted(turns)] for turns in sides.values())
    return prompt, answer


def _role(turn: Body, default: str) -> str:
    role = turn.get("role")
    return role if isinstance(role, str) else default


def _content(turn: Body) -> str:
    """The turn's text; of parts, in one list or as attributes of their own, the texts concatenated."""
    if turn.get("content") is not None:
        return json_fields.content_of(turn["content"], "message.content")
    parts = {name: value for name, value in turn.items() if _PART.fullmatch(name) and isinstance(value, str)}
    return "".join(parts[name] for name in sorted(parts, key=lambda name: int(name.split(".")[1])))
