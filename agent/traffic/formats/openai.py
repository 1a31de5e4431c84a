"""OpenAI pair: what a client sent and what it got, as gateways log it: ``{"request": ..., "response": ...}``.

Chat completions (messages) and completions (prompt: text, or token ids as vLLM takes them). The adapter is
``request.model``. Of several choices the first is read. vLLM's extensions are used where they are there: token ids
(``return_token_ids``), top_k, min_p and repetition_penalty. A streamed answer must have been put together before.
A group is the request's session_id, user, safety_identifier or prompt_cache_key, the first that is there.
"""

from __future__ import annotations

from typing import Any

from agent.errors import Unreadable
from agent.kafka.contract import Message, Place
from agent.records import AsideReason, Interaction
from agent.traffic import json_fields, scorable
from agent.traffic.json_fields import Body, Chat

NAME = "openai"


def guess(message: Message, body: Body) -> bool:  # noqa: ARG001 - one shape for all formats
    request, response = body.get("request"), body.get("response")
    return isinstance(request, dict) and isinstance(response, dict) and "choices" in response


def read(message: Message, body: Body, place: Place) -> Interaction:
    """One record as an Interaction; its adapter is the model that was asked for. Raises Unreadable."""
    request, response = json_fields.mapping(body, "request"), json_fields.mapping(body, "response")
    choice, usage = _choice(response), json_fields.mapping(response, "usage")
    messages, prompt_ids = _prompt(request)
    told_ids = json_fields.token_ids(_first(choice, response, "prompt_token_ids"), "prompt_token_ids") or prompt_ids
    output_ids = json_fields.token_ids(choice.get("token_ids"), "token_ids")
    created = response.get("created", body.get("ts"))
    given = {"max_tokens": request.get("max_completion_tokens"), **request}
    return Interaction(
        request_id=json_fields.required(response, "id"),
        at=message.at if created is None else json_fields.seconds(created, "created"),
        adapter=json_fields.required(request, "model"),
        base="",
        pod=json_fields.pod_of(message) or json_fields.pod_name(json_fields.optional(body, "pod", str)),
        messages=messages,
        output=_output(choice),
        finish_reason=json_fields.optional(choice, "finish_reason", str) or "",
        sampling=json_fields.sampling(given),
        prompt_tokens=json_fields.count(usage, "prompt_tokens"),
        output_tokens=json_fields.count(usage, "completion_tokens"),
        topic=place[0],
        partition=place[1],
        offset=message.offset,
        prompt_token_ids=told_ids,
        output_token_ids=output_ids,
        token_logprobs=_logprobs(choice),
        unscored=scorable.of_request(request, told_ids, output_ids) or _why_not_all(choice, response),
        group=json_fields.group_of(request, "session_id", "user", "safety_identifier", "prompt_cache_key"),
    )


def _why_not_all(choice: Body, response: Body) -> str:
    """Why the first choice's text is not all that was written once, "" where it is."""
    if len(response["choices"]) > 1:
        return "the answer is one of several (choices)"
    details = json_fields.mapping(response, "usage").get("completion_tokens_details")
    if isinstance(details, dict) and details.get("reasoning_tokens"):
        return "the answer holds reasoning apart from its text (reasoning_tokens)"
    stopped = choice.get("stop_reason")
    if isinstance(stopped, str) and not choice.get("token_ids"):
        return "its answer was cut at its end (stop_reason), and no token ids tell where"
    return scorable.of_answer(
        json_fields.mapping(choice, "message"), json_fields.optional(choice, "finish_reason", str) or ""
    )


def _choice(response: Body) -> Body:
    choices = json_fields.optional(response, "choices", list)
    if not choices:
        raise Unreadable(AsideReason.MISSING_FIELD, "choices")
    if not isinstance(choices[0], dict):
        raise Unreadable(AsideReason.WRONG_TYPE, "choices")
    return dict(choices[0])


def _prompt(request: Body) -> tuple[Chat, tuple[int, ...]]:
    """The chat, and the prompt's token ids where it came as those."""
    if request.get("messages"):
        return json_fields.chat(request["messages"]), ()
    prompt = request.get("prompt")
    if isinstance(prompt, list):
        return (), json_fields.token_ids(prompt, "prompt")
    return ({"role": "user", "content": json_fields.text(request, "prompt")},), ()


def _output(choice: Body) -> str:
    if "text" in choice:
        return json_fields.text(choice, "text")
    return json_fields.content_of(json_fields.mapping(choice, "message").get("content"), "content")


def _logprobs(choice: Body) -> tuple[float, ...]:
    """Chat: logprobs.content[].logprob; completions: logprobs.token_logprobs."""
    told = json_fields.mapping(choice, "logprobs")
    content = told.get("content")
    if isinstance(content, list):
        tokens = [item if isinstance(item, dict) else {} for item in content]
        return json_fields.logprobs([token.get("logprob") for token in tokens], "logprobs")
    return json_fields.logprobs(told.get("token_logprobs"), "logprobs")


def _first(one: Body, other: Body, name: str) -> Any:
    return one.get(name) if one.get(name) is not None else other.get(name)
