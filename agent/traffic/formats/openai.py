"""OpenAI pair: a client's request and the response to it, as gateways log them: ``{"request": ..., "response": ...}``.

Chat completions (messages) and completions (prompt: text, or token ids as vLLM accepts them; alone, or as the only one
of a list). The adapter is what SGLang's ``lora_path`` or LoRAX's ``adapter_id`` names, and then the model is its base;
else the adapter is ``request.model``. Of several choices the first is read. vLLM's extensions are used where they are
present: token ids (``return_token_ids``), top_k, min_p and repetition_penalty. A streamed answer may be recorded
assembled, as a list of all its chunks, or as the text of its events; a single chunk and an engine's error are rejected.
The group is the first that is present of the request's session_id, user, safety_identifier and prompt_cache_key.
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


def guess(message: Message, body: Body) -> bool:  # noqa: ARG001 - the same signature for all formats
    return ("request" in body and "response" in body) or answers.is_chunk(body)


def read(message: Message, body: Body, partition: TopicPartition) -> Interaction:
    """One record as an Interaction; its adapter is the model that was requested. Raises Unreadable."""
    response = _response(body)
    request, several = _one_prompt(_object(json_fields.parsed(body.get("request")), "request"))
    answers.require_complete(response, request.get("stream") is True)
    adapter, base = _adapter(request)
    choice, usage = _choice(response), json_fields.mapping(response, "usage")
    messages, prompt_ids = _prompt(request)
    recorded_ids = json_fields.token_ids(_first(choice, response, "prompt_token_ids"), "prompt_token_ids") or prompt_ids
    output_ids = json_fields.token_ids(choice.get("token_ids"), "token_ids")
    parameters = {"max_tokens": request.get("max_completion_tokens"), **request}
    return Interaction(
        request_id=json_fields.optional(response, "id", str) or "",
        at=json_fields.recorded_time(message, ("created", response.get("created")), ("ts", body.get("ts"))),
        adapter=adapter,
        base=base,
        pod=json_fields.pod_of(message) or json_fields.pod_name(json_fields.optional(body, "pod", str)),
        messages=messages,
        output=_output(choice, request),
        finish_reason=json_fields.optional(choice, "finish_reason", str) or "",
        sampling=json_fields.sampling(parameters),
        prompt_tokens=json_fields.count(usage, "prompt_tokens"),
        output_tokens=json_fields.count(usage, "completion_tokens"),
        topic=partition[0],
        partition=partition[1],
        offset=message.offset,
        prompt_token_ids=recorded_ids,
        output_token_ids=output_ids,
        token_logprobs=_logprobs(choice),
        unscored=several or scorable.of_request(request, recorded_ids, output_ids) or _why_not_all(choice, response),
        group=json_fields.group_of(request, "session_id", "user", "safety_identifier", "prompt_cache_key"),
    )


def _why_not_all(choice: Body, response: Body) -> str:
    """Why the first choice's text is not everything that was generated, "" where it is."""
    if len(response["choices"]) > 1:
        return "the answer is one of several (choices)"
    details = json_fields.mapping(response, "usage").get("completion_tokens_details")
    if isinstance(details, dict) and details.get("reasoning_tokens"):
        return "the answer contains reasoning besides its text (reasoning_tokens)"
    stop_string = choice.get("stop_reason")
    if isinstance(stop_string, str) and not choice.get("token_ids"):
        return "the answer was truncated at a stop string (stop_reason), and no output token ids were recorded"
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
    """The response; a streamed one assembled. Raises Unreadable, also for an error that is recorded besides it."""
    recorded = json_fields.parsed(body.get("response"))
    if isinstance(recorded, str) and answers.is_events(recorded):
        recorded = answers.events(recorded)
    if isinstance(recorded, list):
        recorded = answers.assembled(recorded)
    response = _object(recorded, "response")
    if not response.get("choices"):
        answers.require_complete(body)  # a status or an error besides it, or a chunk without its request
    return response


def _object(value: object, name: str) -> Body:
    return json_fields.mapping({name: value}, name)


def adapter_besides_model(request: Body) -> object:
    """The adapter's name where a request has it in a field of its own besides the model, else None."""
    extra = request.get("extra_body")
    for parameters in (request, extra) if isinstance(extra, dict) else (request,):
        for field in ADAPTER_FIELDS:
            if name := parameters.get(field):
                return name[0] if isinstance(name, list) and len(name) == 1 else name
    return None


def _adapter(request: Body) -> tuple[str, str]:
    """The adapter's name, and that of its base where the request names both."""
    adapter = adapter_besides_model(request)
    if adapter is None:
        return json_fields.required(request, "model"), ""
    return json_fields.required({"lora_path": adapter}, "lora_path"), json_fields.optional(request, "model", str) or ""


def _one_prompt(request: Body) -> tuple[Body, str]:
    """The request with the first prompt in place of a list, and why that is not the whole prompt, "" where it is."""
    prompts = request.get("prompt")
    if not isinstance(prompts, list) or not prompts or not isinstance(prompts[0], str | list):
        return request, ""
    several = f"the request contains {len(prompts)} prompts (prompt)" if len(prompts) > 1 else ""
    return {**request, "prompt": prompts[0]}, several


def _prompt(request: Body) -> tuple[Chat, tuple[int, ...]]:
    """The chat, and the prompt's token ids where the prompt consists of those."""
    if request.get("messages"):
        return json_fields.chat(request["messages"]), ()
    prompt = request.get("prompt")
    if isinstance(prompt, list) and prompt:
        return (), json_fields.token_ids(prompt, "prompt")
    return ({"role": "user", "content": json_fields.text(request, "prompt")},), ()


def text_of(response: Body) -> str:
    """The text of a response's first choice. Raises Unreadable."""
    answers.require_complete(response)
    return _output(_choice(response), {})


def _output(choice: Body, request: Body) -> str:
    """The answer's text, without the prompt that ``echo`` puts before it."""
    if "text" in choice:
        text, prompt = json_fields.text(choice, "text"), request.get("prompt")
        return text.removeprefix(prompt) if request.get("echo") and isinstance(prompt, str) else text
    message = json_fields.mapping(choice, "message")
    if not message:
        raise Unreadable(RejectionReason.MISSING_FIELD, "message")
    return json_fields.content_of(message.get("content"), "content")


def _logprobs(choice: Body) -> tuple[float, ...]:
    """Chat: logprobs.content[].logprob; completions: logprobs.token_logprobs."""
    logprobs = choice.get("logprobs")
    if not isinstance(logprobs, dict):
        return ()
    content = logprobs.get("content")
    if isinstance(content, list):
        tokens = [item if isinstance(item, dict) else {} for item in content]
        return json_fields.logprobs([token.get("logprob") for token in tokens])
    return json_fields.logprobs(logprobs.get("token_logprobs"))


def _first(preferred: Body, other: Body, name: str) -> Any:
    return preferred.get(name) if preferred.get(name) is not None else other.get(name)
