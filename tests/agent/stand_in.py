"""A server that takes what it is sent, for the sinks whose receiver needs no more than that."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import orjson


class StandIn:
    """Gives the answers of ``next`` in turn, and then 200, echoing the body.

    next: (status, headers); requests: (path, headers, body) of each, in order
    """

    def __init__(self) -> None:
        self.next: list[tuple[int, dict[str, str]]] = []
        self.requests: list[tuple[str, dict[str, str], Any]] = []

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def bodies(self) -> list[Any]:
        return [body for _, _, body in self.requests]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, headers = stand_in.next.pop(0) if stand_in.next else (200, {})
                stand_in.requests.append((self.path, dict(self.headers), orjson.loads(body)))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Quiet: a header may carry a token."""

        return Handler
