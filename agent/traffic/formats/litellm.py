"""LiteLLM's StandardLoggingPayload: what its callbacks log of each call, one JSON object a record.

Chat and text completions that the engine answered are read as the OpenAI pair that they were. Other kinds of calls,
failures, and records whose texts LiteLLM has removed (``redacted-by-litellm``) are rejected.

The adapter is ``model``, the name in the request to the engine, without the provider that LiteLLM's routing puts before
it (``hosted_vllm/ticket-router``). It is not ``model_group``, the name in the client's request: a group may be several
deployments, of several adapters, and an alias of a group is a group of its own.
``prompt_tokens`` and ``completion_tokens`` of a stream are the engine's where the request asked for them
(``stream_options.include_usage``); else LiteLLM counts them with a tokenizer of its own, and they are not read.
An answer from LiteLLM's cache is a request, but was not sampled from the model for it. A guardrail may change either
text. The group is ``session_id``, else ``trace_id`` where it was given (without one each call gets a UUID), else the
end user.

``model_parameters`` has what OpenAI's API defines. Whatever else a request or the router's configuration passes to an
engine (top_k, min_p, a grammar: LiteLLM's extra_body) is in no field of the record: configure the deployment's sampling
parameters in ``scoring``, and do not read traffic in this format whose requests ask for more.

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
# What LiteLLM logs in place of a file in a prompt.
OMITTED_FILE = "[base64_data truncated: "
# Of ``metadata``: what adds to a prompt on its way to the engine.
PROMPT_ADDITIONS = ("prompt_management_metadata", "vector_store_request_metadata", "mcp_tool_call_metadata")


def guess(message: Message, body: Body) -> bool:  # noqa: ARG001 - the same signature for all formats
    return "call_type" in body and "model_parameters" in body and "startTime" in body


def read(message: Message, body: Body, partition: TopicPartition) -> Interaction:
    """One call as an Interaction. Raises Unreadable with a reason of RejectionReason."""
    _check_kind(body)
    pair = {"request": _request(body), "response": _response(body)}
    interaction = openai.read(message, pair, partition)
    unscored = _why_not_sampled(body) or interaction.unscored or _why_changed(body, interaction)
    return replace(interaction, unscored=unscored, group=_group(body))


def _check_kind(body: Body) -> None:
    if json_fields.required(body, "status") != "success":
        raise Unreadable(RejectionReason.ERROR_ANSWER, answers.ERROR)
    kind = json_fields.required(body, "call_type")
    if kind not in (*CHAT, *TEXT):
        name = json_fields.name_or_nothing(kind)
        raise Unreadable(RejectionReason.UNKNOWN_SCHEMA, f"neither chat nor completion: call_type {name}".rstrip())


def _request(body: Body) -> Body:
    request = {**json_fields.mapping(body, "model_parameters"), "model": _engines_name(body)}
    turns = body.get("messages")
    if REDACTED in _texts(turns):
        raise Unreadable(RejectionReason.MISSING_FIELD, "messages, which LiteLLM has redacted")
    if body["call_type"] in TEXT:
        return request | {"prompt": _first_prompt(turns)}
    return request | {"messages": [{"role": "user", "content": turns}] if isinstance(turns, str) else turns}


def _response(body: Body) -> Body:
    """The response as an engine returns it, under the id of the call: engines use the same id more than once."""
    response = json_fields.mapping(body, "response")
    choices = [_choice(choice) for choice in json_fields.optional(response, "choices", list) or []]
    if response.get("text") == REDACTED or REDACTED in [_text_of(choice) for choice in choices]:
        raise Unreadable(RejectionReason.MISSING_FIELD, "response, which LiteLLM has redacted")
    id_field = "litellm_call_id" if body.get("litellm_call_id") else "id"
    usage = dict(json_fields.mapping(response, "usage"))
    usage |= {"prompt_tokens": body.get("prompt_tokens"), "completion_tokens": body.get("completion_tokens")}
    if _is_counted_by_litellm(body):
        usage |= {"prompt_tokens": None, "completion_tokens": None}
    at = body.get("endTime") or body.get("startTime")
    request_id = json_fields.optional(body, id_field, str)
    return {**response, "choices": choices, "id": request_id, "created": at, "usage": usage}


def _choice(choice: Any) -> Any:
    """With the engine's extra fields (``provider_specific_fields``) among the message's usual ones."""
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        return choice
    extra = message.get("provider_specific_fields")
    usual = {name: value for name, value in message.items() if value is not None}
    return {**choice, "message": {**(extra if isinstance(extra, dict) else {}), "content": None, **usual}}


def _text_of(choice: Any) -> Any:
    """The text of a choice, of either kind."""
    if not isinstance(choice, dict):
        return None
    message = choice.get("message")
    return message.get("content") if isinstance(message, dict) else choice.get("text")


def _engines_name(body: Body) -> str:
    """``model`` without the provider, which only a router puts before it; an engine's own name may begin like one."""
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
    items = turns if isinstance(turns, list) else [turns]
    return [item.get("content") if isinstance(item, dict) else item for item in items]


def _is_counted_by_litellm(body: Body) -> bool:
    options = json_fields.mapping(json_fields.mapping(body, "model_parameters"), "stream_options")
    return bool(body.get("stream")) and options.get("include_usage") is not True


def _why_not_sampled(body: Body) -> str:
    """Why this answer is not one sample from the model for this request; "" where it is."""
    if body.get("cache_hit"):
        return "the answer comes from the gateway's cache (cache_hit): it was generated for another request"
    turns = body.get("messages")
    if body["call_type"] in TEXT and isinstance(turns, list) and len(turns) > 1 and not isinstance(turns[0], int):
        return "the answer is one of several (prompt)"
    return ""


def _why_changed(body: Body, interaction: Interaction) -> str:
    """Why the engine's prompt or answer may differ from these texts, "" where they are the same."""
    metadata = json_fields.mapping(body, "metadata")
    if any(json_fields.mapping(body, "standard_built_in_tools_params").values()):
        return "the request offers tools (standard_built_in_tools_params)"
    if (body.get("guardrail_information") or metadata.get("applied_guardrails")) and not (
        interaction.prompt_token_ids and interaction.output_token_ids
    ):
        return "a guardrail may have changed the text (guardrail_information), and token ids were not recorded"
    if interaction.prompt_token_ids:
        return ""
    if any(OMITTED_FILE in turn["content"] for turn in interaction.messages):
        return "the prompt contains a file that the gateway does not log, and no prompt token ids were recorded"
    added = next((name for name in PROMPT_ADDITIONS if metadata.get(name)), "")
    return f"the prompt is more than its messages ({added}), and no prompt token ids were recorded" if added else ""


def _group(body: Body) -> str:
    trace = body.get("trace_id")
    parameters = json_fields.mapping(body, "model_parameters")
    groups = {
        "session_id": body.get("session_id"),
        "trace_id": None if _is_uuid(trace) else trace,
        "end_user": body.get("end_user"),
        "user": parameters.get("user"),
    }
    return json_fields.group_of(groups, *groups)


def _is_uuid(text: Any) -> bool:
    try:
        return str(UUID(str(text))) == text
    except ValueError:
        return False
