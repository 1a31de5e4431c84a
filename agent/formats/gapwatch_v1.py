"""gapwatch.v1: one flat JSON object a record, the format that this project documents for its users.

Required: schema, request_id, ts (seconds since the epoch, or ISO 8601), adapter, messages or prompt, output.
Optional: base, pod, finish_reason, sampling, usage{prompt_tokens, completion_tokens or output_tokens},
prompt_token_ids, output_token_ids, token_logprobs; session or tenant (any text: of both the session makes the group);
tool_calls and reasoning, where the output is not all that was written. Other fields are passed over.

``sampling`` holds the numbers of agent.fields.SAMPLING under those names, and belongs to them whatever else the request
asked of its words (logit_bias, response_format, tools, stop ...): agent/known_law.py says what becomes of it.
Without token ids the output is scored only where ``usage`` tells how many tokens it has, or scoring.retokenise is
``always``.
"""

from __future__ import annotations

from agent import fields, known_law
from agent.errors import Unreadable
from agent.fields import Body, Chat
from agent.records import AsideReason, Interaction
from agent.topic import Message, Place

NAME = "gapwatch.v1"


def guess(message: Message, body: Body) -> bool:  # noqa: ARG001 - one shape for all formats
    return "schema" in body


def read(message: Message, body: Body, place: Place) -> Interaction:
    """One record as an Interaction; its adapter is any name. Raises Unreadable with a reason of AsideReason."""
    _check_schema(body)
    usage, given = fields.mapping(body, "usage"), fields.mapping(body, "sampling")
    finish_reason = fields.optional(body, "finish_reason", str) or ""
    prompt_ids = fields.token_ids(body.get("prompt_token_ids"), "prompt_token_ids")
    output_ids = fields.token_ids(body.get("output_token_ids"), "output_token_ids")
    return Interaction(
        request_id=fields.required(body, "request_id"),
        at=fields.seconds(body.get("ts"), "ts"),
        adapter=fields.required(body, "adapter"),
        base=fields.optional(body, "base", str) or "",
        pod=fields.pod_of(message) or fields.pod_name(fields.optional(body, "pod", str)),
        messages=_messages(body),
        output=fields.text(body, "output"),
        finish_reason=finish_reason,
        sampling=fields.sampling(given),
        prompt_tokens=fields.count(usage, "prompt_tokens"),
        output_tokens=fields.count(usage, "completion_tokens", "output_tokens"),
        topic=place[0],
        partition=place[1],
        offset=message.offset,
        prompt_token_ids=prompt_ids,
        output_token_ids=output_ids,
        token_logprobs=fields.logprobs(body.get("token_logprobs"), "token_logprobs"),
        unscored=known_law.of_request({**given, "messages": body.get("messages")}, prompt_ids, output_ids)
        or known_law.of_answer(body, finish_reason),
        group=fields.group_of(body, "session", "tenant"),
    )


def _check_schema(body: Body) -> None:
    schema = fields.required(body, "schema")
    if schema != NAME:
        raise Unreadable(AsideReason.UNKNOWN_SCHEMA, f"schema {fields.name_or_nothing(schema)}")


def _messages(body: Body) -> Chat:
    """The chat as it came; a bare prompt is one message of the user."""
    if body.get("messages"):
        return fields.chat(body["messages"])
    if body.get("prompt") is None:
        raise Unreadable(AsideReason.MISSING_FIELD, "messages")
    return ({"role": "user", "content": fields.text(body, "prompt")},)
