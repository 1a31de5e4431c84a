"""Requests and replies as Text Generation Inference has them: text in, adapters by ``parameters.adapter_id``.

Checked against TGI's docs/openapi.json (GenerateParameters, Details, PrefillToken, Token, Info, ChatTokenizeResponse,
StreamResponse, StreamDetails) and the words of its router's refusals.
LoRAX, a fork of it, adds ``return_k_alternatives``: its ``alternative_tokens`` of a token are made here, too. The
prompt side has the token alone, without others.
"""

from __future__ import annotations

from typing import Any

from detectors.records import Floats
from probes.model import toy_language as toy
from tests.serving_engines.replies import Question, Reply, Settings, after_sampler, as_events, as_json, most_probable
from tests.serving_engines.toy_engine import Continuation, ToyEngine
from tests.serving_engines.toy_tokens import chat_ids, ids_of, name_of, text_of

MOST_TOP_TOKENS = 5  # --max-top-n-tokens


def reply(engine: ToyEngine, settings: Settings, question: Question) -> Reply:
    if question.path == "/health":
        return Reply(200 if settings.ready else 503, b"")
    if settings.token and question.token != settings.token:
        return Reply(401, b"")
    if not settings.ready:
        return _error(503, "the model is starting", "overloaded")
    paths = {
        ("GET", "/info"): _info,
        ("GET", "/v1/models"): _models,
        ("GET", "/metrics"): _metrics,
        ("POST", "/generate"): _generate,
        ("POST", "/generate_stream"): _generate_stream,
        ("POST", "/tokenize"): _tokenize,
        ("POST", "/chat_tokenize"): _chat_tokenize,
    }
    answer = paths.get((question.method, question.path))
    return Reply(404, b"", "text/plain") if answer is None else answer(engine, settings, question.body or {})


def _error(status: int, message: str, kind: str) -> Reply:
    return as_json({"error": message, "error_type": kind}, status)


def _info(engine: ToyEngine, settings: Settings, body: dict[str, Any]) -> Reply:
    return as_json(
        {
            "model_id": f"/models/{engine.base}",
            "model_sha": None,
            "model_pipeline_tag": "text-generation",
            "max_concurrent_requests": 128,
            "max_best_of": 2,
            "max_stop_sequences": 4,
            "max_input_tokens": settings.context - 1,
            "max_total_tokens": settings.context,
            "validation_workers": 2,
            "max_client_batch_size": 4,
            "router": "text-generation-router",
            "version": settings.version,
            "sha": None,
            "docker_label": None,
        }
    )


def _models(engine: ToyEngine, settings: Settings, body: dict[str, Any]) -> Reply:
    """The base alone: adapters are in no list."""
    card = {"id": f"/models/{engine.base}", "object": "model", "created": 0, "owned_by": f"/models/{engine.base}"}
    return as_json({"object": "list", "data": [card]})


def _generate(engine: ToyEngine, settings: Settings, body: dict[str, Any]) -> Reply:
    parameters = body.get("parameters") or {}
    model, prompt, most = _asked(engine, body)
    if refusal := _refused(engine, settings, body):
        return refusal
    answer = engine.generated(model, prompt, most, "")
    whole: dict[str, Any] = {"generated_text": text_of(answer.tokens)}
    if parameters.get("details"):
        whole["details"] = _details(settings, parameters, answer)
    if parameters.get("decoder_input_details"):
        rows = engine.scored(model, prompt)
        scored = [float(row[token]) for row, token in zip(rows, prompt[1:], strict=False)]
        prefill = zip(prompt, [None, *scored], strict=True)
        whole["details"]["prefill"] = [{"id": i, "text": name_of(i), "logprob": value} for i, value in prefill]
    return as_json(whole)


def _generate_stream(engine: ToyEngine, settings: Settings, body: dict[str, Any]) -> Reply:
    """An event a token, with the details in the last one, and nothing after it."""
    parameters = body.get("parameters") or {}
    if parameters.get("decoder_input_details"):
        words = "Input validation error: `decoder_input_details` == true is not supported when streaming tokens"
        return _error(422, words, "validation")
    if refusal := _refused(engine, settings, body):
        return refusal
    model, prompt, most = _asked(engine, body)
    answer = engine.generated(model, prompt, most, "", streamed=True)
    details = _details(settings, parameters, answer)
    tops = details.pop("top_tokens", [[] for _ in answer.tokens])
    events = [
        {"index": i + 1, "token": token, "top_tokens": top, "generated_text": None, "details": None}
        for i, (token, top) in enumerate(zip(details["tokens"], tops, strict=True))
    ]
    end = {name: details[name] for name in ("finish_reason", "generated_tokens", "seed")}
    events[-1] |= {"generated_text": text_of(answer.tokens), "details": end | {"input_length": len(prompt)}}
    return as_events(events, end=b"")


def _asked(engine: ToyEngine, body: dict[str, Any]) -> tuple[str, list[int], int]:
    """Name, token ids of the prompt, most tokens."""
    parameters = body.get("parameters") or {}
    return parameters.get("adapter_id") or engine.base, ids_of(body["inputs"]), parameters.get("max_new_tokens") or 100


def _refused(engine: ToyEngine, settings: Settings, body: dict[str, Any]) -> Reply | None:
    model, prompt, most = _asked(engine, body)
    if not engine.knows(model):
        return _error(422, f"Input validation error: adapter_id `{model}` not found", "validation")
    wanted = (body.get("parameters") or {}).get("top_n_tokens") or 0
    if wanted > MOST_TOP_TOKENS:
        words = f"Input validation error: `top_n_tokens` must be >= 0 and <= {MOST_TOP_TOKENS}. Given: {wanted}"
        return _error(422, words, "validation")
    if not prompt or len(prompt) + most > settings.context:
        words = f"Input validation error: `inputs` tokens + `max_new_tokens` must be <= {settings.context}"
        return _error(422, words, "validation")
    return None


def _details(settings: Settings, parameters: dict[str, Any], answer: Continuation) -> dict[str, Any]:
    rows = [after_sampler(row) if settings.processed else row for row in answer.rows]
    tokens = [_token(row, token) for row, token in zip(rows, answer.tokens, strict=True)]
    if alternatives := parameters.get("return_k_alternatives"):
        for token, row in zip(tokens, rows, strict=True):
            token["alternative_tokens"] = [
                {name: value for name, value in _token(row, i).items() if name != "special"}
                for i in most_probable(row, settings.listed(alternatives))
            ]
    details: dict[str, Any] = {
        "finish_reason": "eos_token" if answer.ended else "length",
        "generated_tokens": len(answer.tokens),
        "seed": None,
        "prefill": [],
        "tokens": tokens,
    }
    if wanted := parameters.get("top_n_tokens"):
        kept = settings.listed(wanted)
        details["top_tokens"] = [[_token(row, i) for i in most_probable(row, kept)] for row in rows]
    return details


def _token(row: Floats, token: int) -> dict[str, Any]:
    return {"id": token, "text": name_of(token), "logprob": float(row[token]), "special": token in toy.NAMES}


def _tokenize(engine: ToyEngine, settings: Settings, body: dict[str, Any]) -> Reply:
    return as_json(_simple_tokens(ids_of(body["inputs"])))


def _chat_tokenize(engine: ToyEngine, settings: Settings, body: dict[str, Any]) -> Reply:
    ids = chat_ids(body["messages"])
    return as_json({"tokenize_response": _simple_tokens(ids), "templated_text": text_of(ids, special=True)})


def _simple_tokens(ids: list[int]) -> list[dict[str, Any]]:
    tokens, start = [], 0
    for token in ids:
        stop = start + len(name_of(token))
        tokens.append({"id": token, "text": name_of(token), "start": start, "stop": stop})
        start = stop
    return tokens


def _metrics(engine: ToyEngine, settings: Settings, body: dict[str, Any]) -> Reply:
    gauges = {"tgi_batch_current_size": settings.running, "tgi_queue_size": settings.waiting}
    lines = [f"# TYPE {name} gauge\n{name} {value}\n" for name, value in gauges.items()]
    return Reply(200, "".join(lines).encode(), "text/plain; version=0.0.4; charset=utf-8")
