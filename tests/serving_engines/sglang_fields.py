"""Requests and replies as SGLang's native server has them: /generate by token ids, adapters by ``lora_path``.

Checked against excerpts of SGLang's python/sglang/srt/entrypoints/http_server.py (model_info, tokenize),
managers/tokenizer_manager.py (meta_info) and entrypoints/openai (ChatCompletionRequest; that ids and meta_info are
refused in a stream), main of autumn 2026; a chat's list of texts is left out; /v1/models, /server_info and names of
metrics were not checked. Log-probabilities are [value, id, text or null].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from detectors.records import Floats
from tests.serving_engines.replies import Question, Reply, Settings, after_sampler, as_events, as_json, most_probable
from tests.serving_engines.toy_engine import Continuation, ToyEngine
from tests.serving_engines.toy_tokens import chat_ids, ids_of, prompt_of, text_of

CREATED = 1_795_000_000


def reply(engine: ToyEngine, settings: Settings, question: Question) -> Reply:
    if question.path == "/health":
        return Reply(200 if settings.ready else 503, b"")
    if settings.token and question.token != settings.token:
        return as_json({"error": "Unauthorized"}, 401)
    if not settings.ready:
        return _error(503, "the server is starting")
    paths = {
        ("GET", "/model_info"): _model_info,
        ("GET", "/get_model_info"): _model_info,
        ("GET", "/server_info"): _server_info,
        ("GET", "/get_server_info"): _server_info,
        ("GET", "/v1/models"): _models,
        ("GET", "/metrics"): _metrics,
        ("POST", "/generate"): _generate,
        ("POST", "/v1/chat/completions"): _chat,
        ("POST", "/tokenize"): _tokenize,
        ("POST", "/detokenize"): _detokenize,
    }
    answer = paths.get((question.method, question.path))
    return as_json({"detail": "Not Found"}, 404) if answer is None else answer(engine, settings, question.body or {})


def _error(status: int, message: str) -> Reply:
    return as_json({"error": {"message": message}}, status)


def _model_info(engine: ToyEngine, settings: Settings, body: dict[str, Any]) -> Reply:
    return as_json(
        {
            "model_path": f"/models/{engine.base}",
            "tokenizer_path": f"/models/{engine.base}",
            "is_generation": True,
            "preferred_sampling_params": None,
            "weight_version": "default",
            "has_image_understanding": False,
            "has_audio_understanding": False,
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
        }
    )


def _server_info(engine: ToyEngine, settings: Settings, body: dict[str, Any]) -> Reply:
    return as_json(
        {
            "model_path": f"/models/{engine.base}",
            "served_model_name": engine.base,
            "context_length": settings.context,
            "enable_lora": bool(engine.adapters),
            "max_loras_per_batch": settings.max_loras,
            "weight_version": "default",
            "max_total_num_tokens": 100_000,
            "internal_states": [{"avg_request_queue_latency": 0.0}],
            "version": settings.version,
        }
    )


def _models(engine: ToyEngine, settings: Settings, body: dict[str, Any]) -> Reply:
    def card(name: str, root: str, parent: str | None, context: int | None) -> dict[str, Any]:
        whole = {"id": name, "object": "model", "created": CREATED, "owned_by": "sglang", "root": root}
        return whole | {"parent": parent, "max_model_len": context}

    base = card(engine.base, engine.base, None, settings.context)
    adapters = [card(name, f"/adapters/{seed}", engine.base, None) for name, seed in engine.adapters.items()]
    twice = [card(settings.twice, "/adapters/another", engine.base, None)] if settings.twice else []
    return as_json({"object": "list", "data": [base, *adapters, *twice]})


def _generate(engine: ToyEngine, settings: Settings, body: dict[str, Any]) -> Reply:
    """An adapter is named by ``lora_path``; without it the base answers."""
    model = body.get("lora_path") or engine.base
    if not engine.knows(model):
        return _error(400, f"Got LoRA adapter that has never been loaded: {model}")
    prompt = [int(i) for i in body["input_ids"]] if body.get("input_ids") is not None else ids_of(body["text"])
    sampling = body.get("sampling_params") or {}
    most = sampling.get("max_new_tokens", 128)
    if not prompt or len(prompt) + most > settings.context:
        return _error(400, f"The input ({len(prompt)} tokens) is longer than the model's context {settings.context}.")
    streamed = bool(body.get("stream"))
    answer = engine.generated(model, prompt, most, body.get("extra_key") or "", streamed)
    if not streamed:
        return as_json(_whole(engine, settings, body, prompt, answer))
    # Each event holds all tokens so far, its ids those since the last one.
    so_far = [replace(answer, tokens=answer.tokens[:n], rows=answer.rows[:n]) for n in range(1, len(answer.tokens) + 1)]
    return as_events(
        _whole(engine, settings, body, prompt, part) | {"output_ids": [part.tokens[-1]]} for part in so_far
    )


def _whole(
    engine: ToyEngine, settings: Settings, body: dict[str, Any], prompt: Sequence[int], answer: Continuation
) -> dict[str, Any]:
    start = body.get("logprob_start_len", -1)
    is_scored = bool(body.get("return_logprob")) and start is not None and start >= 0
    meta: dict[str, Any] = {
        "id": "1f",
        "finish_reason": {"type": "stop", "matched": answer.tokens[-1]}
        if answer.ended
        else {"type": "length", "length": len(answer.tokens)},
        "prompt_tokens": len(prompt),
        "weight_version": "default",
        "total_retractions": 0,
        "completion_tokens": len(answer.tokens),
        "cached_tokens": min(answer.cached, start) if is_scored else answer.cached,
        "e2e_latency": 0.01,
    }
    if body.get("return_logprob"):
        model = body.get("lora_path") or engine.base
        meta |= _input_logprobs(engine, settings, body, model, prompt, start if is_scored else len(prompt))
        meta |= _output_logprobs(settings, body, answer)
    return {"text": text_of(answer.tokens), "output_ids": list(answer.tokens), "meta_info": meta}


def _chat(engine: ToyEngine, settings: Settings, body: dict[str, Any]) -> Reply:
    """Of ChatCompletionRequest what is asked for here; with ``return_meta_info`` the native answer's is beside it."""
    told = [name for name in ("return_prompt_token_ids", "return_token_ids", "return_meta_info") if body.get(name)]
    if body.get("stream"):
        return _error(400, f"{told[0] if told else 'stream'} is not supported with streaming. Please set stream=false")
    model = body.get("lora_path") or engine.base
    if not engine.knows(model):
        return _error(400, f"Got LoRA adapter that has never been loaded: {model}")
    prompt, most = chat_ids(body["messages"]), body.get("max_completion_tokens") or body.get("max_tokens") or 128
    answer = engine.generated(model, prompt, most, body.get("extra_key") or "", at_chat=True)
    native = {"lora_path": model, "return_logprob": body.get("logprobs"), "top_logprobs_num": body.get("top_logprobs")}
    whole = _whole(engine, settings, native, prompt, answer)
    more = {"prompt_token_ids": prompt, "token_ids": whole["output_ids"], "meta_info": whole["meta_info"]}
    asked = {name.removeprefix("return_") for name in told} & settings.tells_of_chats
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": whole["text"], "reasoning_content": None, "tool_calls": None},
        "finish_reason": whole["meta_info"]["finish_reason"]["type"],
        "matched_stop": whole["meta_info"]["finish_reason"].get("matched"),
    }
    choice |= {name: value for name, value in more.items() if name in asked}
    head = {"id": "1f", "object": "chat.completion", "created": CREATED, "model": body.get("model", "default")}
    return as_json(head | {"choices": [choice], "metadata": {"weight_version": "default"}})


def _input_logprobs(
    engine: ToyEngine, settings: Settings, body: dict[str, Any], model: str, prompt: Sequence[int], start: int
) -> dict[str, Any]:
    """Of the prompt's tokens from ``start`` on; the first token of all follows nothing, so it has null."""
    if start >= len(prompt):
        return {"input_token_logprobs": [], "input_top_logprobs": []}
    rows = engine.scored(model, prompt)
    places = range(max(start, 1), len(prompt))
    first: list[Any] = [[None, prompt[0], None]] if start == 0 else []
    tokens = first + [_entry(rows[i - 1], prompt[i]) for i in places]
    k = settings.listed(body.get("top_logprobs_num", 0))
    tops: list[Any] = [None] if start == 0 else []
    tops += [[_entry(rows[i - 1], token) for token in most_probable(rows[i - 1], k)] for i in places]
    return {"input_token_logprobs": tokens, "input_top_logprobs": tops if k else []}


def _output_logprobs(settings: Settings, body: dict[str, Any], answer: Continuation) -> dict[str, Any]:
    rows = [after_sampler(row) if settings.processed else row for row in answer.rows]
    tokens = [_entry(row, token) for row, token in zip(rows, answer.tokens, strict=True)]
    k = settings.listed(body.get("top_logprobs_num", 0))
    tops = [[_entry(row, token) for token in most_probable(row, k)] for row in rows]
    outputs: dict[str, Any] = {"output_token_logprobs": tokens, "output_top_logprobs": tops if k else []}
    if named := body.get("token_ids_logprob"):
        outputs["output_token_ids_logprobs"] = [[_entry(row, token) for token in named] for row in rows]
    return outputs


def _entry(row: Floats, token: int) -> list[Any]:
    return [float(row[token]), token, None]


def _tokenize(engine: ToyEngine, settings: Settings, body: dict[str, Any]) -> Reply:
    ids = chat_ids(body["messages"]) if body.get("messages") else prompt_of(body["prompt"])
    return as_json({"tokens": ids, "count": len(ids), "max_model_len": settings.context})


def _detokenize(engine: ToyEngine, settings: Settings, body: dict[str, Any]) -> Reply:
    return as_json({"text": text_of(body["tokens"], special=not body.get("skip_special_tokens", True))})


def _metrics(engine: ToyEngine, settings: Settings, body: dict[str, Any]) -> Reply:
    gauges = {
        "sglang:num_running_reqs": settings.running,
        "sglang:num_queue_reqs": settings.waiting,
        "sglang:token_usage": settings.cache_usage,
    }
    labels = f'{{model_name="{engine.base}"}}'
    lines = [f"# TYPE {name} gauge\n{name}{labels} {float(value)}\n" for name, value in gauges.items()]
    return Reply(200, "".join(lines).encode(), "text/plain; version=0.0.4; charset=utf-8")
