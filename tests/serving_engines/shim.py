"""A serving engine on the loopback, over the toy language: fields as a real engine has them, faults on demand.

``serving(ToyEngine())`` speaks vLLM's fields; ``fields=`` takes another of FIELDS. ``server.engine.faults`` makes the
engine wrong, ``server.settings`` are those of its start, ``server.transport`` makes the transport bad.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from tests.serving_engines import openai_fields, sglang_fields, tgi_fields, vllm_fields
from tests.serving_engines.replies import Dialect, Question, Reply, Settings
from tests.serving_engines.toy_engine import ToyEngine
from tests.serving_engines.transport import Transport

FIELDS: dict[str, Dialect] = {
    "vllm": vllm_fields.reply,
    "sglang": sglang_fields.reply,
    "tgi": tgi_fields.reply,
    "openai": openai_fields.reply,
}


@dataclass
class Server:
    """questions: all requests, in the order of their arrival; most_at_once: of them that were open together"""

    engine: ToyEngine
    dialect: Dialect
    settings: Settings
    transport: Transport
    url: str = ""
    questions: list[Question] = field(default_factory=list)
    most_at_once: int = 0
    _open: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def reply(self, question: Question) -> Reply:
        with self._lock:  # the toy engine is one thread's
            return self.dialect(self.engine, self.settings, question)

    @contextlib.contextmanager
    def counted(self, question: Question) -> Iterator[None]:
        with self._lock:
            self.questions.append(question)
            self._open += 1
            self.most_at_once = max(self.most_at_once, self._open)
        try:
            yield
        finally:
            with self._lock:
                self._open -= 1

    def bodies(self, path: str) -> list[Any]:
        """What was asked of this path."""
        return [question.body for question in self.questions if question.path == path]


@contextlib.contextmanager
def serving(
    engine: ToyEngine | None = None,
    fields: str = "vllm",
    settings: Settings | None = None,
    transport: Transport | None = None,
    port: int = 0,
) -> Iterator[Server]:
    """A server with this engine behind it, until the end of the block. port: on the loopback, 0 for a free one"""
    owner = Server(engine or ToyEngine(), FIELDS[fields], settings or Settings(), transport or Transport())
    listening = ThreadingHTTPServer(("127.0.0.1", port), _handler(owner))
    listening.daemon_threads = True
    owner.url = f"http://127.0.0.1:{listening.server_address[1]}"
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield owner
    finally:
        owner.transport.release()
        listening.shutdown()
        listening.server_close()
        thread.join()


def _handler(owner: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Without both of these every request waits 40 ms for a delayed acknowledgement.
        disable_nagle_algorithm = True
        wbufsize = -1

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def _answer(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            target = urlsplit(self.path)
            question = Question(self.command, target.path, target.query, json.loads(sent or b"null"), self._token())
            with owner.counted(question), contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self._write(owner.transport.applied(question, lambda: owner.reply(question)))

        def _token(self) -> str:
            return self.headers.get("Authorization", "").removeprefix("Bearer ")

        def _write(self, reply: Reply) -> None:
            self.send_response(reply.status)
            self.send_header("Content-Type", reply.kind)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            if isinstance(reply.content, bytes):
                self.send_header("Content-Length", str(len(reply.content)))
            else:
                self.send_header("Connection", "close")  # closes it after the reply, too
            self.end_headers()
            for piece in [reply.content] if isinstance(reply.content, bytes) else reply.content:
                self.wfile.write(piece)
                self.wfile.flush()

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    return Handler
