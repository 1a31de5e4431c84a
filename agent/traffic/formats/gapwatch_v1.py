"""gapwatch.v1: one flat JSON object a record, the format that this project documents for its users.

Required: schema, request_id (where it is "", the record's topic, partition and offset are its id), ts (seconds since
the epoch, or ISO 8601), adapter, messages or prompt, output.
Optional: base, pod, finish_reason, sampling, usage{prompt_tokens, completion_tokens or output_tokens},
prompt_token_ids, output_token_ids, token_logprobs; session or tenant (any text: of both the session makes the group);
tool_calls and reasoning, where the output is not everything that was generated. Other fields are ignored.

``sampling`` holds the numbers of SAMPLING in agent/traffic/json_fields.py under those names, and whatever else the
request set that affects the output (logit_bias, response_format, tools, stop ...): agent/traffic/scorable.py decides
on it. Where it is not an object the response is not scored.
Without token ids the output is scored only where ``usage`` gives its number of tokens, or scoring.retokenise is
``always``.
"""

from __future__ import annotations

from agent.errors import Unreadable
from agent.kafka.contract import Message, TopicPartition
from agent.records import RejectionReason
from agent.traffic import json_fields, scorable
from agent.traffic.json_fields import Body, Chat
from probes.scoring.interaction import Interaction

NAME = "gapwatch.v1"


def guess(message: Message, body: Body) -> bool:  # noqa: ARG001 - the same signature for all formats
    return isinstance(body.get("schema"), str)


def read(message: Message, body: Body, partition: TopicPartition) -> Interaction:
    """One record as an Interaction, whatever name its adapter has.

    Raises Unreadable with a reason of RejectionReason.
    """
    _check_schema(body)
    usage = json_fields.mapping(body, "usage")
    given, unread = scorable.parameters(body.get("sampling"), "sampling")
    finish_reason = json_fields.optional(body, "finish_reason", str) or ""
    prompt_ids = json_fields.token_ids(body.get("prompt_token_ids"), "prompt_token_ids")
    output_ids = json_fields.token_ids(body.get("output_token_ids"), "output_token_ids")
    return Interaction(
        request_id=json_fields.text(body, "request_id"),
        at=json_fields.seconds(body.get("ts"), "ts"),
        adapter=json_fields.required(body, "adapter"),
        base=json_fields.optional(body, "base", str) or "",
        pod=json_fields.pod_of(message) or json_fields.pod_name(json_fields.optional(body, "pod", str)),
        messages=_messages(body),
        output=json_fields.text(body, "output"),
        finish_reason=finish_reason,
        sampling=json_fields.sampling(given),
        prompt_tokens=json_fields.count(usage, "prompt_tokens"),
        output_tokens=json_fields.count(usage, "completion_tokens", "output_tokens"),
        topic=partition[0],
        partition=partition[1],
        offset=message.offset,
        prompt_token_ids=prompt_ids,
        output_token_ids=output_ids,
        token_logprobs=json_fields.logprobs(body.get("token_logprobs")),
        unscored=unread
        or scorable.of_request({**given, "messages": body.get("messages")}, prompt_ids, output_ids)
        or scorable.of_answer(body, finish_reason),
        group=json_fields.group_of(body, "session", "tenant"),
    )


def _check_schema(body: Body) -> None:
    schema = json_fields.required(body, "schema")
    if schema != NAME:
        raise Unreadable(RejectionReason.UNKNOWN_SCHEMA, f"schema {json_fields.name_or_nothing(schema)}")


def _messages(body: Body) -> Chat:
    """The chat as it is recorded; a bare prompt becomes one message of the user."""
    if body.get("messages"):
        return json_fields.chat(body["messages"])
    if body.get("prompt") is None:
        raise Unreadable(RejectionReason.MISSING_FIELD, "messages")
    return ({"role": "user", "content": json_fields.text(body, "prompt")},)
