"""LiteLLM's StandardLoggingPayload: what its callbacks hand over of each call, one JSON object a record.

Read are chat and text completions that the engine answered, as the OpenAI pair that they were; other kinds of calls,
failures and records whose texts LiteLLM took out (``redacted-by-litellm``) are set aside.

The adapter is ``model``, the name that the engine was asked for, without the provider that LiteLLM's routing puts
before it (``hosted_vllm/ticket-router``). Not ``model_group``, the name that the client asked for: a group may be
several deployments, of several adapters, and an alias of a group is a group of its own.
``prompt_tokens`` and ``completion_tokens`` of a stream are the engine's where the request asked for them
(``stream_options.include_usage``); else LiteLLM counts them with a tokenizer of its own, and they are not read.
What is answered from LiteLLM's cache is a request, but no draw. A guardrail may change either text.
A group is ``session_id``, else ``trace_id`` where it was given (without one each call gets a UUID), else the end user.

``model_parameters`` holds what OpenAI's API has a word for. Whatever else a request or the router's configuration gives
an engine (top_k, min_p, a grammar: LiteLLM's extra_body) is in no field of the record: say the deployment's sampler in
``scoring``, and do not read traffic in this format whose requests ask for more.

Source: litellm/types/utils.py of litellm 1.110.2, and what it wrote (tests/agent/traffic/formats/recorded).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

from agent.errors import Unreadable
from agent.kafka.contract import Message, TopicPartition
from agent.records import RejectionReason
from agent.traffic import answers, json_fields
from agent.traffic.formats import openai
from agent.traffic.json_fields import Body
from probes.scoring.interaction import Interaction

NAME = "litellm"
CHAT, TEXT = ("acompletion", "completion"), ("atext_completion", "text_completion")
REDACTED = "redacted-by-litellm"
# What LiteLLM leaves of a file in a prompt.
CUT = "[base64_data truncated: "
# Of ``metadata``: what adds to a prompt on its way.
ADDS = ("prompt_management_metadata", "vector_store_request_metadata", "mcp_tool_call_metadata")


def guess(message: Message, body: Body) -> bool:  # noqa: ARG001 - one shape for all formats
    return "call_type" in body and "model_parameters" in body and "startTime" in body


def read(message: Message, body: Body, partition: TopicPartition) -> Interaction:
    """One call as an Interaction. Raises Unreadable with a reason of RejectionReason."""
    _check_kind(body)
    seen = openai.read(message, {"request": _request(body), "response": _response(body)}, partition)
    unscored = _why_not_drawn(body) or seen.unscored or _why_changed(body, seen)
    return replace(seen, unscored=unscored, group=_group(body))


def _check_kind(body: Body) -> None:
    if json_fields.required(body, "status") != "success":
        raise Unreadable(RejectionReason.ERROR_ANSWER, answers.ERROR)
    kind = json_fields.required(body, "call_type")
    if kind not in (*CHAT, *TEXT):
        told = json_fields.name_or_nothing(kind)
        raise Unreadable(RejectionReason.UNKNOWN_SCHEMA, f"neither chat nor completion: call_type {told}".rstrip())


def _request(body: Body) -> Body:
    asked = {**json_fields.mapping(body, "model_parameters"), "model": _engines_name(body)}
    turns = body.get("messages")
    if REDACTED in _texts(turns):
        raise Unreadable(RejectionReason.MISSING_FIELD, "messages, which LiteLLM has redacted")
    if body["call_type"] in TEXT:
        return asked | {"prompt": _first_prompt(turns)}
    return asked | {"messages": [{"role": "user", "content": turns}] if isinstance(turns, str) else turns}


def _response(body: Body) -> Body:
    """The answer as an engine gives it, under the id of the call: engines give the same one more than once."""
    told = json_fields.mapping(body, "response")
    choices = [_choice(one) for one in json_fields.optional(told, "choices", list) or []]
    if told.get("text") == REDACTED or REDACTED in [_written(one) for one in choices]:
        raise Unreadable(RejectionReason.MISSING_FIELD, "response, which LiteLLM has redacted")
    known = "litellm_call_id" if body.get("litellm_call_id") else "id"
    usage = dict(json_fields.mapping(told, "usage"))
    usage |= {"prompt_tokens": body.get("prompt_tokens"), "completion_tokens": body.get("completion_tokens")}
    if _is_counted_by_litellm(body):
        usage |= {"prompt_tokens": None, "completion_tokens": None}
    at = body.get("endTime") or body.get("startTime")
    return {**told, "choices": choices, "id": json_fields.optional(body, known, str), "created": at, "usage": usage}


def _choice(choice: Any) -> Any:
    """With what the engine says beside the message's usual fields (``provider_specific_fields``) among these."""
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        return choice
    more = message.get("provider_specific_fields")
    told = {name: value for name, value in message.items() if value is not None}
    return {**choice, "message": {**(more if isinstance(more, dict) else {}), "content": None, **told}}


def _written(choice: Any) -> Any:
    """The text of a choice, of either kind."""
    if not isinstance(choice, dict):
        return None
    message = choice.get("message")
    return message.get("content") if isinstance(message, dict) else choice.get("text")


def _engines_name(body: Body) -> str:
    """Only a router's ``model`` has the provider before the name; a name of the engine's own may begin like one."""
    name = json_fields.required(body, "model")
    if not body.get("model_id"):
        return name
    provider = json_fields.optional(body, "custom_llm_provider", str) or ""
    prefixes = (f"{provider}/", f"{provider.removeprefix('text-completion-')}/")
    return name.removeprefix(next(filter(name.startswith, prefixes), ""))


def _first_prompt(turns: Any) -> Any:
    """A text completion's prompts are logged as turns of the user, or as token ids."""
    if isinstance(turns, list) and turns and not isinstance(turns[0], int):
        return turns[0].get("content") if isinstance(turns[0], dict) else turns[0]
    return turns


def _texts(turns: Any) -> list[Any]:
    found = turns if isinstance(turns, list) else [turns]
    return [one.get("content") if isinstance(one, dict) else one for one in found]


def _is_counted_by_litellm(body: Body) -> bool:
    options = json_fields.mapping(json_fields.mapping(body, "model_parameters"), "stream_options")
    return bool(body.get("stream")) and options.get("include_usage") is not True


def _why_not_drawn(body: Body) -> str:
    """Why the engine did not write this answer, once, for this request; "" where it did."""
    if body.get("cache_hit"):
        return "the answer comes out of the gateway's cache (cache_hit): it was drawn for another request"
    turns = body.get("messages")
    if body["call_type"] in TEXT and isinstance(turns, list) and len(turns) > 1 and not isinstance(turns[0], int):
        return "the answer is one of several (prompt)"
    return ""


def _why_changed(body: Body, seen: Interaction) -> str:
    """Why the engine may have read or written something else than these texts, "" where it has not."""
    metadata = json_fields.mapping(body, "metadata")
    if any(json_fields.mapping(body, "standard_built_in_tools_params").values()):
        return "the request offers tools (standard_built_in_tools_params)"
    if (body.get("guardrail_information") or metadata.get("applied_guardrails")) and not (
        seen.prompt_token_ids and seen.output_token_ids
    ):
        return "a guardrail of the gateway may have changed it (guardrail_information), and no token ids tell"
    if seen.prompt_token_ids:
        return ""
    if any(CUT in turn["content"] for turn in seen.messages):
        return "its prompt holds a file that the gateway does not log, and no token ids tell it"
    added = next((name for name in ADDS if metadata.get(name)), "")
    return f"its prompt is more than its messages ({added}), and no token ids tell it" if added else ""


def _group(body: Body) -> str:
    trace = body.get("trace_id")
    asked = json_fields.mapping(body, "model_parameters")
    told = {
        "session_id": body.get("session_id"),
        "trace_id": None if _is_uuid(trace) else trace,
        "end_user": body.get("end_user"),
        "user": asked.get("user"),
    }
    return json_fields.group_of(told, *told)


def _is_uuid(text: Any) -> bool:
    try:
        return str(UUID(str(text))) == text
    except ValueError:
        return False
