"""OpenInference: LLM spans as JSON, their attributes flat, nested, or in OTLP's list of keys.

One span a record, or an OTLP envelope of traces with any number; spans of other kinds in it are passed over. The
adapter is ``llm.model_name`` (or ``llm.request.model_name``), a group ``session.id``, else ``user.id``. Messages are
numbered attributes (``llm.input_messages.0.message.role`` ...; a stream's answer tells no role); where a span has none,
the texts of a completion (``llm.prompts``, ``llm.choices``), else ``input.value`` and ``output.value``, are the texts,
or the bodies that they are in, embedded and not scored. Request parameters are the JSON text in
``llm.invocation_parameters``, or attributes below that name. A span that ended in an error and holds no answer is the
engine's error answer.

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
FAILED = ("ERROR", "STATUS_CODE_ERROR", 2)
TOOLS = ("llm.tools", "llm.function_call")
PLAIN = {"role", "content"}
CALLS = ("tool_calls", "function_call")
# A completion's one prompt and one text; several are not told apart by what follows.
COMPLETION_PROMPT, COMPLETION_ANSWER = "llm.prompts.0.prompt.text", "llm.choices.0.completion.text"
_NUMBER = re.compile(r"[0-9]{1,6}", re.ASCII)
_PART = re.compile(r"contents\.[0-9]{1,6}\.message_content\.text", re.ASCII)
Turns = list[dict[str, Any]]


def guess(message: Message, body: Body) -> bool:  # noqa: ARG001 - one shape for all formats
    return _has_kind(body) or (otlp.is_envelope(body) and any(map(_has_kind, otlp.records(body))))


def split(body: Body) -> list[Body]:
    """Its LLM spans, one a body. Raises Unreadable."""
    return otlp.split(body, lambda span: json_fields.attributes(span.get("attributes")).get(KIND) == "LLM")


def read(message: Message, body: Body, partition: TopicPartition) -> Interaction:
    """One span as an Interaction. Raises Unreadable with a reason of RejectionReason."""
    span, resource = otlp.only(body)
    told = json_fields.attributes(span.get("attributes"))
    if told.get(KIND) != "LLM":
        raise Unreadable(RejectionReason.UNKNOWN_SCHEMA, f"span of another kind than LLM in {KIND}")
    prompt, answer = _messages(told)
    if _failed(span) and not answer:
        raise Unreadable(
            RejectionReason.ERROR_ANSWER, answers.ERROR
        )  # before the model's name, which the answer would tell
    model = "llm.model_name" if told.get("llm.model_name") else "llm.request.model_name"
    given, unread = scorable.parameters(told.get(PARAMETERS), PARAMETERS)
    asked = {**json_fields.under(told, f"{PARAMETERS}."), **given}
    messages, prompt_ids = _prompt(told, prompt)
    pod = told.get("k8s.pod.name", resource.get("k8s.pod.name"))
    return Interaction(
        request_id=_span_id(span),
        at=_at(span, message),
        adapter=json_fields.required(told, model),
        base="",
        pod=json_fields.pod_of(message) or json_fields.pod_name(pod),
        messages=messages,
        output=_output(told, answer),
        finish_reason=json_fields.optional(told, "llm.finish_reason", str) or "",
        sampling=json_fields.sampling(asked),
        prompt_tokens=json_fields.count(told, "llm.token_count.prompt"),
        output_tokens=json_fields.count(told, "llm.token_count.completion"),
        topic=partition[0],
        partition=partition[1],
        offset=message.offset,
        prompt_token_ids=prompt_ids,
        unscored=unread or scorable.of_request(asked, (), ()) or _why_not_told(told, prompt, answer, span),
        group=json_fields.group_of(told, "session.id", "user.id"),
    )


def _has_kind(span: Body) -> bool:
    return json_fields.has_attribute(span.get("attributes"), KIND)


def _why_not_told(told: Body, prompt: Turns, answer: Turns, span: Body) -> str:
    """Why the attributes do not tell the whole request and answer, "" where they do."""
    if not prompt:
        return "its prompt is one text (input.value), and no token ids tell how it was read"
    if not all(isinstance(turn.get("role"), str) for turn in prompt):
        return "a message of its prompt tells no role (llm.input_messages)"
    if len(answer) > 1:
        return "the answer is one of several (llm.output_messages)"
    if _failed(span):
        return "its answer was broken off (status)"
    if any(name.startswith(TOOLS) for name in told):
        return "tools are offered or called (llm.tools, message.tool_calls)"
    for turn in (*prompt, *answer):
        plain = turn.keys() == PLAIN and isinstance(turn["content"], str)
        if not plain and (why := _why_no_text(turn)):
            return why
    if json_fields.count(told, "llm.token_count.completion_details.reasoning"):
        return "the answer holds reasoning apart from its text (llm.token_count.completion_details.reasoning)"
    said = {**_said_apart(told), **(answer[0] if answer else {})}
    return scorable.of_answer(said, json_fields.optional(told, "llm.finish_reason", str) or "")


def _why_no_text(turn: Body) -> str:
    """Why a message is more than one text, "" where it is not."""
    if any(name.startswith(CALLS) for name in turn):
        return "tools are offered or called (llm.tools, message.tool_calls)"
    kinds = (value for name, value in turn.items() if name.endswith("message_content.type"))
    if not scorable.is_text(turn.get("content")) or any(kind != "text" for kind in kinds):
        return "the prompt or the answer holds parts that are no text"
    return ""


def _failed(span: Body) -> bool:
    status = span.get("status")
    return isinstance(status, dict) and (status.get("status_code") in FAILED or status.get("code") in FAILED)


def _said_apart(told: Body) -> Body:
    """What an answer holds beside its text, which no attribute tells: where the whole answer is in ``output.value``."""
    whole = json_fields.parsed(told.get("output.value"))
    choices = whole.get("choices") if isinstance(whole, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    return {**message, "content": None} if isinstance(message, dict) else {}


def _span_id(body: Body) -> str:
    """ "" where it has none."""
    context = json_fields.mapping(body, "context") or body
    trace = context.get("trace_id", context.get("traceId", ""))
    span = context.get("span_id", context.get("spanId"))
    if not isinstance(span, str | None) or not isinstance(trace, str):
        raise Unreadable(RejectionReason.WRONG_TYPE, "span_id")
    return f"{trace}:{span}" if span else ""


def _at(body: Body, message: Message) -> float:
    names = ("endTimeUnixNano", "end_time", "startTimeUnixNano", "start_time")
    return json_fields.recorded_time(message, *((name, body.get(name)) for name in names))


def _prompt(told: Body, turns: Turns) -> tuple[Chat, tuple[int, ...]]:
    """The chat, and the prompt's token ids where the request, told whole in ``input.value``, holds those instead."""
    if turns:
        return tuple({"role": _role(turn, "user"), "content": _content(turn)} for turn in turns), ()
    if told.get(COMPLETION_PROMPT):
        return ({"role": "user", "content": json_fields.text(told, COMPLETION_PROMPT)},), ()
    asked = json_fields.parsed(told.get("input.value"))
    if isinstance(asked, dict) and asked.get("messages"):
        return json_fields.chat(asked["messages"], "input.value"), ()
    if isinstance(asked, dict) and isinstance(asked.get("prompt"), list):
        return (), json_fields.token_ids(asked["prompt"], "input.value")
    return ({"role": "user", "content": json_fields.text(told, "input.value")},), ()


def _output(told: Body, turns: Turns) -> str:
    if turns:
        return _content(turns[0])
    if COMPLETION_ANSWER in told:
        return json_fields.text(told, COMPLETION_ANSWER)
    written = json_fields.parsed(told.get("output.value"))
    if isinstance(written, dict) and "choices" in written:
        return openai.text_of(written)
    return json_fields.text(told, "output.value")


def _messages(told: Body) -> tuple[Turns, Turns]:
    """The fields of each numbered message of the prompt and of the answer, in the order of the numbers."""
    sides: dict[str, dict[int, dict[str, Any]]] = {"llm.input_messages": {}, "llm.output_messages": {}}
    for name, value in told.items():
        before, _, field = name.partition(".message.")
        if field:
            side, _, number = before.rpartition(".")
            if side in sides and _NUMBER.fullmatch(number):
                sides[side].setdefault(int(number), {})[field] = value
    prompt, answer = ([found[number] for number in sorted(found)] for found in sides.values())
    return prompt, answer


def _role(turn: Body, usual: str) -> str:
    role = turn.get("role")
    return role if isinstance(role, str) else usual


def _content(turn: Body) -> str:
    """Its text; of parts that are attributes of their own, or in one list, the texts."""
    if turn.get("content") is not None:
        return json_fields.content_of(turn["content"], "message.content")
    parts = {name: value for name, value in turn.items() if _PART.fullmatch(name) and isinstance(value, str)}
    return "".join(parts[name] for name in sorted(parts, key=lambda name: int(name.split(".")[1])))
