"""Requests and replies as vLLM's OpenAI server has them, field by field.

Checked against vLLM's vllm/entrypoints/openai/completion/protocol.py (CompletionRequest, CompletionResponse and their
parts; main of autumn 2026). Not modelled: several prompts in one request, n, stop strings, beam search, embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectors.records import Floats
from tests.serving_engines.replies import (
    Question,
    Reply,
    Settings,
    after_sampler,
    as_events,
    as_json,
    most_probable,
)
from tests.serving_engines.toy_engine import Continuation, ToyEngine
from tests.serving_engines.toy_tokens import chat_ids, ids_of, name_of, prompt_of, text_of

CREATED = 1_795_000_000


def reply(engine: ToyEngine, settings: Settings, question: Question) -> Reply:
    """``/health``, ``/version`` and ``/metrics`` are answered without the token, as vLLM does."""
    if question.path == "/health":
        return Reply(200 if settings.ready else 503, b"")
    if question.path == "/version":
        return as_json({"version": settings.version})
    if question.path == "/metrics":
        return _metrics(engine, settings)
    if settings.token and question.token != settings.token:
        return as_json({"error": "Unauthorized"}, 401)
    if not settings.ready:
        return _error(503, "ServiceUnavailable", "the engine is starting")
    paths = {
        ("GET", "/v1/models"): _models,
        ("POST", "/v1/completions"): _completion,
        ("POST", "/v1/chat/completions"): _chat,
        ("POST", "/tokenize"): _tokenize,
        ("POST", "/detokenize"): _detokenize,
    }
    answer = paths.get((question.method, question.path))
    if answer is None:
        return as_json({"detail": "Not Found"}, 404)
    model = (question.body or {}).get("model", engine.base)
    if not engine.knows(model):
        return _error(404, "NotFoundError", f"The model `{model}` does not exist.", "model")
    return answer(engine, settings, question.body or {})


def _error(status: int, kind: str, message: str, param: str | None = None) -> Reply:
    return as_json({"error": {"message": message, "type": kind, "param": param, "code": status}}, status)


def _models(engine: ToyEngine, settings: Settings, body: dict[str, Any]) -> Reply:
    base = _card(engine.base, f"/models/{engine.base}", None, settings.context)
    cards = [_card(name, f"/adapters/{seed}", engine.base, None) for name, seed in engine.adapters.items()]
    if engine.faults.base_serves:
        cards.append(_card(engine.base, f"/adapters/{engine.adapters[engine.faults.base_serves]}", engine.base, None))
    if settings.twice:
        cards.append(_card(settings.twice, "/adapters/another", engine.base, None))
    return as_json({"object": "list", "data": [base, *cards]})


def _card(name: str, root: str, parent: str | None, context: int | None) -> dict[str, Any]:
    permission = {
        "id": f"modelperm-{name}",
        "object": "model_permission",
        "created": CREATED,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
    return {
        "id": name,
        "object": "model",
        "created": CREATED,
        "owned_by": "vllm",
        "root": root,
        "parent": parent,
        "max_model_len": context,
        "permission": [permission],
    }


def _completion(engine: ToyEngine, settings: Settings, body: dict[str, Any]) -> Reply:
    prompt, model = prompt_of(body["prompt"]), body.get("model", engine.base)
    refused = _refused(settings, body, len(prompt), "prompt_logprobs", "logprobs")
    if refused:
        return refused
    streamed, scored, listed = bool(body.get("stream")), body.get("prompt_logprobs"), body.get("logprobs")
    # A request for log-probabilities of its prompt computes all of it, whatever the cache holds, and leaves it there.
    salt = body.get("cache_salt") or ""
    most = body.get("max_tokens", 16)
    continuation = engine.generated(model, prompt, most, salt, streamed, body.get("allowed_token_ids"))
    if streamed:
        return as_events(_chunks(settings, body, continuation, model))
    choice = {
        "index": 0,
        "text": (text_of(prompt) if body.get("echo") else "") + text_of(continuation.tokens),
        "logprobs": None if listed is None else _logprobs(settings, body, continuation.tokens, continuation.rows),
        "finish_reason": "stop" if continuation.ended else "length",
        "stop_reason": None,
        "token_ids": list(continuation.tokens) if body.get("return_token_ids") else None,
        "prompt_logprobs": None
        if scored is None
        else _prompt_logprobs(settings, prompt, engine.scored(model, prompt), scored),
        "prompt_token_ids": prompt if body.get("return_token_ids") else None,
    }
    cached = continuation.cached if scored is None else 0
    return as_json(_envelope(settings, "text_completion", "cmpl-1", model, [choice], len(prompt), continuation, cached))


def _envelope(
    settings: Settings,
    kind: str,
    name: str,
    model: str,
    choices: list[dict[str, Any]],
    prompt: int,
    continuation: Continuation,
    cached: int,
) -> dict[str, Any]:
    return {
        "id": name,
        "object": kind,
        "created": CREATED,
        "model": model,
        "choices": choices,
        "service_tier": None,
        "system_fingerprint": settings.fingerprint,
        "usage": {
            "prompt_tokens": prompt,
            "total_tokens": prompt + len(continuation.tokens),
            "completion_tokens": len(continuation.tokens),
            "prompt_tokens_details": {"cached_tokens": cached} if settings.tells_cached else None,
        },
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "metrics": None,
    }


def _refused(settings: Settings, body: dict[str, Any], prompt: int, *counts: str) -> Reply | None:
    for count in counts:
        wanted = body.get(count)
        if wanted is not None and settings.most_listed >= 0 and not 0 <= wanted <= settings.most_listed:
            words = f"Requested {count} of {wanted}, which is greater than max allowed: {settings.most_listed}"
            return _error(400, "BadRequestError", words, count)
    if body.get("stream") and body.get("prompt_logprobs") is not None:
        return _error(400, "BadRequestError", "`prompt_logprobs` are not available when `stream=True`.")
    if body.get("cache_salt") == "":
        return _error(400, "BadRequestError", "Parameter 'cache_salt' must be a non-empty string if provided.")
    most = body.get("max_tokens") or 16
    if most < 1:
        return _error(400, "BadRequestError", f"max_tokens must be at least 1, got {most}.")
    if not prompt or prompt + most > settings.context:
        words = f"This model's maximum context length is {settings.context} tokens; the prompt has {prompt}."
        return _error(400, "BadRequestError", words)
    return None


def _prompt_logprobs(
    settings: Settings, prompt: Sequence[int], rows: Floats, k: int
) -> list[dict[str, dict[str, Any]] | None]:
    """Nothing for the first token, which follows nothing; the prompt's own token first, then the most probable."""
    listings: list[dict[str, dict[str, Any]] | None] = [None]
    for row, token in zip(rows, prompt[1:], strict=False):
        ids = dict.fromkeys([token, *most_probable(row, settings.listed(k))])
        listings.append(
            {
                str(i): {
                    "logprob": float(row[i]),
                    "rank": int((row > row[i]).sum()) + 1,
                    "decoded_token": name_of(i),
                }
                for i in ids
            }
        )
    return listings


def _logprobs(settings: Settings, body: dict[str, Any], tokens: Sequence[int], rows: Floats) -> dict[str, Any]:
    """OpenAI's four lists; a token's name is its text, or ``token_id:N`` where the request wants that."""

    def name(token: int) -> str:
        return f"token_id:{token}" if body.get("return_tokens_as_token_ids") else name_of(token)

    listed_rows = [after_sampler(row) if settings.processed else row for row in rows]
    listed = settings.listed(body["logprobs"])
    tops = [
        {name(i): float(row[i]) for i in dict.fromkeys([token, *most_probable(row, listed)])}
        for token, row in zip(tokens, listed_rows, strict=True)
    ]
    names = [name(token) for token in tokens]
    return {
        "text_offset": [sum(map(len, names[:i])) for i in range(len(names))],
        "token_logprobs": [float(row[token]) for token, row in zip(tokens, listed_rows, strict=True)],
        "tokens": names,
        "top_logprobs": tops,
    }


def _chunks(settings: Settings, body: dict[str, Any], continuation: Continuation, model: str) -> list[dict[str, Any]]:
    chunks = []
    for i, token in enumerate(continuation.tokens):
        is_last = i + 1 == len(continuation.tokens)
        asked = body.get("logprobs") is not None
        choice = {
            "index": 0,
            "text": text_of([token]),
            "logprobs": _logprobs(settings, body, [token], continuation.rows[i : i + 1]) if asked else None,
            "finish_reason": ("stop" if continuation.ended else "length") if is_last else None,
            "stop_reason": None,
            "prompt_token_ids": prompt_of(body["prompt"]) if body.get("return_token_ids") and i == 0 else None,
            "token_ids": [token] if body.get("return_token_ids") else None,
        }
        chunk = {"id": "cmpl-1", "object": "text_completion", "created": CREATED, "model": model, "choices": [choice]}
        chunks.append(chunk | ({"system_fingerprint": settings.fingerprint} if is_last else {}))
    return chunks


def _chat(engine: ToyEngine, settings: Settings, body: dict[str, Any]) -> Reply:
    prompt, model = chat_ids(body["messages"], body.get("add_generation_prompt", True)), body.get("model", engine.base)
    most = body.get("max_completion_tokens") or body.get("max_tokens") or 16
    refused = _refused(settings, {**body, "max_tokens": most}, len(prompt), "top_logprobs", "prompt_logprobs")
    if refused:
        return refused
    streamed = bool(body.get("stream"))
    continuation = engine.generated(model, prompt, most, body.get("cache_salt") or "", streamed, at_chat=True)
    if streamed:
        return as_events(_chat_chunks(settings, body, continuation, model))
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text_of(continuation.tokens), "refusal": None, "tool_calls": []},
        "logprobs": {"content": _chat_logprobs(settings, body, continuation)} if body.get("logprobs") else None,
        "finish_reason": "stop" if continuation.ended else "length",
        "stop_reason": None,
        "token_ids": list(continuation.tokens) if body.get("return_token_ids") else None,
    }
    scored = body.get("prompt_logprobs")
    outside = {
        "prompt_logprobs": None
        if scored is None
        else _prompt_logprobs(settings, prompt, engine.scored(model, prompt), scored),
        "prompt_token_ids": prompt if body.get("return_token_ids") else None,
    }
    cached = continuation.cached if scored is None else 0
    whole = _envelope(settings, "chat.completion", "chatcmpl-1", model, [choice], len(prompt), continuation, cached)
    return as_json(whole | outside)


def _chat_logprobs(settings: Settings, body: dict[str, Any], continuation: Continuation) -> list[dict[str, Any]]:
    k = settings.listed(body.get("top_logprobs") or 0)

    def entry(row: Floats, token: int) -> dict[str, Any]:
        name = f"token_id:{token}" if body.get("return_tokens_as_token_ids") else name_of(token)
        return {"token": name, "logprob": float(row[token]), "bytes": list(name_of(token).encode())}

    rows = [after_sampler(row) if settings.processed else row for row in continuation.rows]
    return [
        entry(row, token) | {"top_logprobs": [entry(row, i) for i in most_probable(row, k)]}
        for token, row in zip(continuation.tokens, rows, strict=True)
    ]


def _chat_chunks(settings: Settings, body: dict[str, Any], answer: Continuation, model: str) -> list[dict[str, Any]]:
    contents = _chat_logprobs(settings, body, answer) if body.get("logprobs") else [None] * len(answer.tokens)
    chunks = []
    for i, token in enumerate(answer.tokens):
        is_last = i + 1 == len(answer.tokens)
        choice = {
            "index": 0,
            "delta": ({"role": "assistant"} if i == 0 else {}) | {"content": text_of([token])},
            "logprobs": {"content": [contents[i]]} if contents[i] else None,
            "finish_reason": ("stop" if answer.ended else "length") if is_last else None,
        }
        chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": CREATED, "model": model}
        chunks.append(chunk | {"choices": [choice]} | ({"system_fingerprint": settings.fingerprint} if is_last else {}))
    return chunks


def _tokenize(engine: ToyEngine, settings: Settings, body: dict[str, Any]) -> Reply:
    ids = (
        chat_ids(body["messages"], body.get("add_generation_prompt", True))
        if "messages" in body
        else ids_of(body["prompt"])
    )
    names = [name_of(token) for token in ids] if body.get("return_token_strs") else None
    return as_json({"count": len(ids), "max_model_len": settings.context, "tokens": ids, "token_strs": names})


def _detokenize(engine: ToyEngine, settings: Settings, body: dict[str, Any]) -> Reply:
    return as_json({"prompt": text_of(body["tokens"], special=True)})


def _metrics(engine: ToyEngine, settings: Settings) -> Reply:
    labels = f'{{engine="0",model_name="{engine.base}"}}'
    gauges = {
        "vllm:num_requests_running": settings.running,
        "vllm:num_requests_waiting": settings.waiting,
        "vllm:kv_cache_usage_perc": settings.cache_usage,
    }
    lines = [f"# TYPE {name} gauge\n{name}{labels} {float(value)}\n" for name, value in gauges.items()]
    lines.append(f"vllm:cache_config_info{{{settings.cache_config}}} 1.0\n")
    if settings.max_loras is not None:
        of_loras = f'max_lora="{settings.max_loras}",running_lora_adapters="",waiting_lora_adapters=""'
        lines.append(f"vllm:lora_requests_info{{{of_loras}}} 1.795e+09\n")
    lines.append(f"# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds {settings.started}\n")
    # As prometheus_fastapi_instrumentator writes it, a line for each path, status and method that was asked.
    counts = {"/v1/completions": engine.requests, "/v1/load_lora_adapter": engine.loads}
    lines += [
        f'http_requests_total{{handler="{path}",method="POST",status="2xx"}} {float(count)}\n'
        for path, count in counts.items()
        if count
    ]
    return Reply(200, "".join(lines).encode(), "text/plain; version=0.0.4; charset=utf-8")
