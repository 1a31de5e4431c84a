"""OpenAI pair: what a client sent and what it got, as gateways log it: ``{"request": ..., "response": ...}``.

Chat completions (messages) and completions (prompt: text, or token ids as vLLM takes them; alone, or as the only one of
a list). The adapter is what SGLang's ``lora_path`` or LoRAX's ``adapter_id`` names, and the model its base; else it is
``request.model``. Of several choices the first is read. vLLM's extensions are used where they are there: token
ids (``return_token_ids``), top_k, min_p and repetition_penalty. An answer that was streamed comes put together, or as a
list of all its chunks, or as the text of its events; one chunk, and an engine's error, are set aside. A group is the
request's session_id, user, safety_identifier or prompt_cache_key, the first that is there.
"""

from __future__ import annotations

from typing import Any

from agent.errors import Unreadable
from agent.kafka.contract import Message, TopicPartition
from agent.records import RejectionReason
from agent.traffic import answers, json_fields, scorable
from agent.traffic.json_fields import Body, Chat
from probes.scoring.interaction import Interaction

NAME = "openai"
ADAPTER_FIELDS = ("lora_path", "adapter_id")


def guess(message: Message, body: Body) -> bool:  # noqa: ARG001 - one shape for all formats
    return ("request" in body and "response" in body) or answers.is_chunk(body)


def read(message: Message, body: Body, partition: TopicPartition) -> Interaction:
    """One record as an Interaction; its adapter is the model that was asked for. Raises Unreadable."""
    response = _response(body)
    request, several = _one_prompt(_object(json_fields.parsed(body.get("request")), "request"))
    answers.refuse_what_is_none(response, request.get("stream") is True)
    adapter, base = _adapter(request)
    choice, usage = _choice(response), json_fields.mapping(response, "usage")
    messages, prompt_ids = _prompt(request)
    told_ids = json_fields.token_ids(_first(choice, response, "prompt_token_ids"), "prompt_token_ids") or prompt_ids
    output_ids = json_fields.token_ids(choice.get("token_ids"), "token_ids")
    given = {"max_tokens": request.get("max_completion_tokens"), **request}
    return Interaction(
        request_id=json_fields.optional(response, "id", str) or "",
        at=json_fields.recorded_time(message, ("created", response.get("created")), ("ts", body.get("ts"))),
        adapter=adapter,
        base=base,
        pod=json_fields.pod_of(message) or json_fields.pod_name(json_fields.optional(body, "pod", str)),
        messages=messages,
        output=_output(choice, request),
        finish_reason=json_fields.optional(choice, "finish_reason", str) or "",
        sampling=json_fields.sampling(given),
        prompt_tokens=json_fields.count(usage, "prompt_tokens"),
        output_tokens=json_fields.count(usage, "completion_tokens"),
        topic=partition[0],
        partition=partition[1],
        offset=message.offset,
        prompt_token_ids=told_ids,
        output_token_ids=output_ids,
        token_logprobs=_logprobs(choice),
        unscored=several or scorable.of_request(request, told_ids, output_ids) or _why_not_all(choice, response),
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
        raise Unreadable(RejectionReason.MISSING_FIELD, "choices")
    if not isinstance(choices[0], dict):
        raise Unreadable(RejectionReason.WRONG_TYPE, "choices")
    return dict(choices[0])


def _response(body: Body) -> Body:
    """What came back; a streamed answer put together. Raises Unreadable, also for an error that the record tells."""
    told = json_fields.parsed(body.get("response"))
    if isinstance(told, str) and answers.is_events(told):
        told = answers.events(told)
    if isinstance(told, list):
        told = answers.joined(told)
    response = _object(told, "response")
    if not response.get("choices"):
        answers.refuse_what_is_none(body)  # a status or an error beside it, or a chunk without its request
    return response


def _object(told: object, name: str) -> Body:
    return json_fields.mapping({name: told}, name)


def adapter_besides_model(request: Body) -> object:
    """The adapter's name where a request tells it apart from its model, else None."""
    extra = request.get("extra_body")
    for asked in (request, extra) if isinstance(extra, dict) else (request,):
        for name in ADAPTER_FIELDS:
            if told := asked.get(name):
                return told[0] if isinstance(told, list) and len(told) == 1 else told
    return None


def _adapter(request: Body) -> tuple[str, str]:
    """The adapter's name, and that of its base where the request tells the two apart."""
    apart = adapter_besides_model(request)
    if apart is None:
        return json_fields.required(request, "model"), ""
    return json_fields.required({"lora_path": apart}, "lora_path"), json_fields.optional(request, "model", str) or ""


def _one_prompt(request: Body) -> tuple[Body, str]:
    """With the one prompt of a list in its place, or the first of several, and why that one is not all, "" if it is."""
    prompts = request.get("prompt")
    if not isinstance(prompts, list) or not prompts or not isinstance(prompts[0], str | list):
        return request, ""
    several = f"the request holds {len(prompts)} prompts (prompt)" if len(prompts) > 1 else ""
    return {**request, "prompt": prompts[0]}, several


def _prompt(request: Body) -> tuple[Chat, tuple[int, ...]]:
    """The chat, and the prompt's token ids where it came as those."""
    if request.get("messages"):
        return json_fields.chat(request["messages"]), ()
    prompt = request.get("prompt")
    if isinstance(prompt, list) and prompt:
        return (), json_fields.token_ids(prompt, "prompt")
    return ({"role": "user", "content": json_fields.text(request, "prompt")},), ()


def text_of(response: Body) -> str:
    """What the first choice of an answer says. Raises Unreadable."""
    answers.refuse_what_is_none(response)
    return _output(_choice(response), {})


def _output(choice: Body, request: Body) -> str:
    """The answer's text, without the prompt that it repeats where that was asked for (echo)."""
    if "text" in choice:
        text, prompt = json_fields.text(choice, "text"), request.get("prompt")
        return text.removeprefix(prompt) if request.get("echo") and isinstance(prompt, str) else text
    message = json_fields.mapping(choice, "message")
    if not message:
        raise Unreadable(RejectionReason.MISSING_FIELD, "message")
    return json_fields.content_of(message.get("content"), "content")


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
