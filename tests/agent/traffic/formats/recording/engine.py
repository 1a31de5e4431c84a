"""A small engine for the libraries to talk to: OpenAI's routes as vLLM answers them, with the same answers every time.

What it says is decided by the request alone: tools are called, ``n`` choices are given, a stream is streamed. The first
part of the path is how it behaves: ``/plain/v1/...``, or ``/no_role/v1/...`` for one whose chunks tell no role (as some
gateways' do), ``/thinks/v1/...`` for one that tells its reasoning apart, ``/refuses/v1/...`` for one that answers with
an error, ``/breaks/v1/...`` for one whose stream ends after its first token, without a reason and without usage.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

# Always the same one: it is in some records.
PORT = 18_733
CREATED = 1_700_000_000
PROMPT_IDS = [1, 5, 6, 2]
# The last one is the end, which is counted and in no text.
TOKENS = [("ship", 7, -0.25), ("ping", 8, -0.5), ("<|im_end|>", 2, -0.125)]
TEXT = "shipping"
THOUGHT = "A parcel is lost."
CALL = {"id": "call-1", "type": "function", "function": {"name": "lookup", "arguments": '{"parcel": 7}'}}
ERROR = {"message": "max_tokens must be at least 1", "type": "BadRequestError", "param": None, "code": 400}
Json = dict[str, Any]


@contextmanager
def serving() -> Iterator[str]:
    """Its address, without a path."""
    server = ThreadingHTTPServer(("127.0.0.1", PORT), _Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{PORT}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. manner: how the engine behaves; chat: else a text completion; body: its parameters"""

    manner: str
    chat: bool
    body: Json

    def told(self, name: str) -> Any:
        return self.body.get(name)


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        asked = Asked(self.path.split("/")[1], self.path.endswith("/chat/completions"), body)
        if asked.manner == "refuses":
            self._say(400, "application/json", json.dumps({"error": ERROR}))
        elif self.path.endswith("/embeddings"):
            self._say(200, "application/json", json.dumps(_vectors(body)))
        elif asked.told("stream"):
            lines = [*map(json.dumps, _chunks(asked)), *([] if asked.manner == "breaks" else ["[DONE]"])]
            self._say(200, "text/event-stream", "".join(f"data: {line}\n\n" for line in lines))
        else:
            self._say(200, "application/json", json.dumps(_answer(asked)))

    def version_string(self) -> str:
        return "engine"

    def date_time_string(self, timestamp: float | None = None) -> str:  # noqa: ARG002 - the library's shape
        return "Tue, 14 Nov 2023 22:13:20 GMT"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: what is printed is the recorder's."""

    def _say(self, status: int, kind: str, text: str) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())


def _vectors(body: Json) -> Json:
    data = [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}]
    return {"object": "list", "model": body["model"], "data": data, "usage": {"prompt_tokens": 4, "total_tokens": 4}}


def _answer(asked: Asked) -> Json:
    prompt = asked.told("prompt")
    prompts = len(prompt) if isinstance(prompt, list) and isinstance(prompt[0], str) else 1
    choices = [_choice(asked, index) for index in range(prompts * (asked.told("n") or 1))]
    ids = {"prompt_token_ids": PROMPT_IDS} if asked.chat and asked.told("return_token_ids") else {}
    return {**_head(asked), **ids, "choices": choices, "usage": _usage(len(choices))}


def _choice(asked: Asked, index: int) -> Json:
    calls, wants_ids = bool(asked.told("tools")), asked.told("return_token_ids")
    choice: Json = {"index": index, "finish_reason": "tool_calls" if calls else "stop", "stop_reason": None}
    choice |= {"token_ids": [token for _, token, _ in TOKENS]} if wants_ids else {}
    if not asked.chat:
        choice |= {"prompt_token_ids": PROMPT_IDS} if wants_ids else {}
        return {**choice, "text": TEXT, "logprobs": _old_logprobs() if asked.told("logprobs") else None}
    message: Json = {"role": "assistant", "content": None if calls else TEXT, "refusal": None}
    message |= {"tool_calls": [CALL]} if calls else {}
    message |= {"reasoning": THOUGHT} if asked.manner == "thinks" else {}
    return {**choice, "message": message, "logprobs": _logprobs(TOKENS) if asked.told("logprobs") else None}


def _chunks(asked: Asked) -> Iterator[Json]:
    head = _head(asked) | ({"object": "chat.completion.chunk"} if asked.chat else {})
    if asked.chat:
        delta = {"content": ""} if asked.manner == "no_role" else {"role": "assistant", "content": ""}
        ids = {"prompt_token_ids": PROMPT_IDS} if asked.told("return_token_ids") else {}
        yield {**head, **ids, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    if asked.manner == "thinks":
        yield {**head, "choices": [{"index": 0, "delta": {"reasoning": THOUGHT}, "finish_reason": None}]}
    for token in TOKENS[:1] if asked.manner == "breaks" else TOKENS:
        yield {**head, "choices": [_piece(asked, token)]}
    if asked.manner != "breaks" and (asked.told("stream_options") or {}).get("include_usage"):
        yield {**head, "choices": [], "usage": _usage(1)}


def _piece(asked: Asked, token: tuple[str, int, float]) -> Json:
    last = token is TOKENS[-1]
    piece: Json = {"index": 0, "finish_reason": "stop" if last else None}
    piece |= {"token_ids": [token[1]]} if asked.told("return_token_ids") else {}
    text = "" if last else token[0]
    if not asked.chat:
        return {**piece, "text": text, "logprobs": None}
    return {**piece, "delta": {"content": text}, "logprobs": _logprobs([token]) if asked.told("logprobs") else None}


def _head(asked: Asked) -> Json:
    names = ("chatcmpl-1", "chat.completion") if asked.chat else ("cmpl-1", "text_completion")
    return {"id": names[0], "object": names[1], "created": CREATED, "model": asked.told("model")}


def _usage(choices: int) -> Json:
    return {"prompt_tokens": 4, "completion_tokens": 3 * choices, "total_tokens": 4 + 3 * choices}


def _logprobs(tokens: list[tuple[str, int, float]]) -> Json:
    told = [{"token": text, "logprob": nats, "bytes": list(text.encode())} for text, _, nats in tokens]
    return {"content": [{**one, "top_logprobs": []} for one in told]}


def _old_logprobs() -> Json:
    names, nats = [text for text, _, _ in TOKENS], [logprob for _, _, logprob in TOKENS]
    return {"text_offset": [0, 4, 8], "tokens": names, "token_logprobs": nats, "top_logprobs": None}
