"""Requests and replies of OpenAI's legacy completions API and nothing beside it: what every compatible server has.

After OpenAI's published specification (CreateCompletionRequest and -Response, ListModelsResponse), of which excerpts
were at hand and not the whole: at most five alternatives, by their text; no token ids, no tokenizer, no root and parent
of a model. ``echo`` with ``max_tokens: 0`` scores the prompt. An argument that the specification does not have is
refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectors.records import Floats
from tests.serving_engines.replies import Question, Reply, Settings, after_sampler, as_events, as_json, most_probable
from tests.serving_engines.toy_engine import ToyEngine
from tests.serving_engines.toy_tokens import name_of, prompt_of, text_of

CREATED = 1_795_000_000
MOST_ALTERNATIVES = 5
ARGUMENTS = {
    "model", "prompt", "best_of", "echo", "frequency_penalty", "logit_bias", "logprobs", "max_tokens", "n",
    "presence_penalty", "seed", "stop", "stream", "stream_options", "suffix", "temperature", "top_p", "user",
}  # fmt: skip


def reply(engine: ToyEngine, settings: Settings, question: Question) -> Reply:
    if settings.token and question.token != settings.token:
        return _error(401, "Incorrect API key provided.", "invalid_request_error", code="invalid_api_key")
    if not settings.ready:
        return _error(503, "The engine is currently overloaded, please try again later", "server_error")
    if (question.method, question.path) == ("GET", "/v1/models"):
        cards = [{"id": name, "object": "model", "created": CREATED, "owned_by": "owner"} for name in _names(engine)]
        return as_json({"object": "list", "data": cards})
    if (question.method, question.path) != ("POST", "/v1/completions"):
        return _error(404, f"Invalid URL ({question.method} {question.path})", "invalid_request_error")
    return _completion(engine, settings, question.body or {})


def _names(engine: ToyEngine) -> list[str]:
    return [engine.base, *engine.adapters]


def _error(status: int, message: str, kind: str, param: str | None = None, code: str | None = None) -> Reply:
    return as_json({"error": {"message": message, "type": kind, "param": param, "code": code}}, status)


def _completion(engine: ToyEngine, settings: Settings, body: dict[str, Any]) -> Reply:
    if unknown := sorted(set(body) - ARGUMENTS):
        return _error(400, f"Unrecognized request argument supplied: {unknown[0]}", "invalid_request_error")
    model, k = body.get("model", ""), body.get("logprobs")
    if not engine.knows(model):
        words = f"The model `{model}` does not exist or you do not have access to it."
        return _error(404, words, "invalid_request_error", code="model_not_found")
    if k is not None and k > MOST_ALTERNATIVES:
        return _error(400, f"logprobs must be at most {MOST_ALTERNATIVES}", "invalid_request_error", "logprobs")
    prompt, most = prompt_of(body["prompt"]), body.get("max_tokens", 16)
    if not prompt or len(prompt) + most > settings.context:
        words = f"This model's maximum context length is {settings.context} tokens"
        return _error(400, words, "invalid_request_error", code="context_length_exceeded")
    streamed = bool(body.get("stream"))
    answer = engine.generated(model, prompt, most, "", streamed)
    rows: list[Floats | None] = [after_sampler(row) if settings.processed else row for row in answer.rows]
    tokens = list(answer.tokens)
    if body.get("echo"):
        rows = [None, *engine.scored(model, prompt)[:-1], *rows]
        tokens = [*prompt, *tokens]
    head = {"id": "cmpl-1", "object": "text_completion", "created": CREATED, "model": model}
    if streamed:
        last = {"finish_reason": "stop" if answer.ended else "length"}
        return as_events(
            head
            | {"system_fingerprint": settings.fingerprint}
            | {
                "choices": [
                    {"text": text_of([token]), "index": 0, "finish_reason": None}
                    | {"logprobs": None if k is None else _logprobs(settings.listed(k), [token], [row])}
                    | (last if i + 1 == len(tokens) else {})
                ]
            }
            for i, (token, row) in enumerate(zip(tokens, rows, strict=True))
        )
    choice = {
        "text": text_of(tokens),
        "index": 0,
        "logprobs": None if k is None else _logprobs(settings.listed(k), tokens, rows),
        "finish_reason": "stop" if answer.ended else "length",
    }
    usage = {
        "prompt_tokens": len(prompt),
        "completion_tokens": len(answer.tokens),
        "total_tokens": len(prompt) + len(answer.tokens),
    }
    return as_json(head | {"choices": [choice], "system_fingerprint": settings.fingerprint, "usage": usage})


def _logprobs(k: int, tokens: Sequence[int], rows: Sequence[Floats | None]) -> dict[str, Any]:
    """The four lists; the first token of an echoed prompt follows nothing, so it has null."""
    names = [name_of(token) for token in tokens]
    return {
        "tokens": names,
        "token_logprobs": [None if row is None else float(row[token]) for row, token in zip(rows, tokens, strict=True)],
        "top_logprobs": [
            None if row is None else {name_of(i): float(row[i]) for i in dict.fromkeys([token, *most_probable(row, k)])}
            for row, token in zip(rows, tokens, strict=True)
        ],
        "text_offset": [sum(map(len, names[:i])) for i in range(len(names))],
    }
