"""Two small HTTP servers: is the agent alive and ready, its metrics, and answers for the commands on this machine.

The public one (every interface) serves /livez, /startupz, /readyz and /metrics. The control one (loopback only) also
answers named queries, because an embedded store belongs to one process. Manifests and probes name these paths.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import orjson
import structlog

from agent.clock import Clock
from agent.errors import Refused, Retryable

log = structlog.get_logger(__name__)

STALE_S = 60.0
Answer = tuple[int, str, bytes]
Route = Callable[[str, Mapping[str, str]], Answer]


@dataclass(slots=True)
class Routes:
    """What the servers answer with. query: (name, parameters) -> columns and rows; parts: name -> (ok, in words)."""

    metrics: Callable[[], bytes]
    parts: Callable[[], Mapping[str, tuple[bool, str]]]
    query: Callable[[str, Mapping[str, str]], tuple[list[str], list[tuple[Any, ...]]]]


@dataclass(slots=True)
class _Server:
    http: ThreadingHTTPServer
    thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


class Health:
    """Serves until closed. Port 0 takes a free one; ``public_port`` and ``control_port`` hold the ones in use.

    ``open`` raises Retryable where another process listens on the port.
    """

    def __init__(self, routes: Routes, clock: Clock, public_port: int, control_port: int) -> None:
        self._routes, self._clock = routes, clock
        self._wanted = (public_port, control_port)
        self._servers: list[_Server] = []
        self._last_turn = clock.now()
        self.public_port = self.control_port = 0

    def open(self) -> None:
        public, control = self._wanted
        self._servers = [self._serve("0.0.0.0", public, self._public), self._serve("127.0.0.1", control, self._control)]
        self.public_port, self.control_port = (server.http.server_address[1] for server in self._servers)

    def close(self) -> None:
        for server in self._servers:
            server.close()
        self._servers = []

    def touch(self, now: float) -> None:
        """Called in each turn of the loop; /livez fails when that was more than a minute ago."""
        self._last_turn = now

    def _serve(self, host: str, port: int, route: Route) -> _Server:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                url = urlsplit(self.path)
                status, kind, body = route(url.path, dict(parse_qsl(url.query)))
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                log.debug("http", line=format % args)

        try:
            server = ThreadingHTTPServer((host, port), Handler)
        except OSError as error:
            raise Retryable(f"port {port} of {host} (telemetry)", error.strerror or type(error).__name__) from error
        server.daemon_threads = True
        return _Server(server)

    def _public(self, path: str, _params: Mapping[str, str]) -> Answer:
        if path == "/metrics":
            return HTTPStatus.OK, "text/plain; version=0.0.4; charset=utf-8", self._routes.metrics()
        if path == "/livez":
            quiet = self._clock.now() - self._last_turn
            alive = quiet < STALE_S
            return (200 if alive else 503), "text/plain", f"last turn {quiet:.1f} s ago\n".encode()
        if path == "/startupz":
            return HTTPStatus.OK, "text/plain", b"started\n"
        if path == "/readyz":
            parts = self._routes.parts()
            ready = all(ok for ok, _ in parts.values())
            return (200 if ready else 503), "application/json", orjson.dumps(parts)
        return HTTPStatus.NOT_FOUND, "text/plain", b"/livez /startupz /readyz /metrics\n"

    def _control(self, path: str, params: Mapping[str, str]) -> Answer:
        if not path.startswith("/queries/"):
            return self._public(path, params)
        try:
            columns, rows = self._routes.query(path.removeprefix("/queries/"), params)
        except Refused as error:
            return HTTPStatus.BAD_REQUEST, "application/json", orjson.dumps({"error": str(error)})
        except Exception as error:
            log.warning("query_failed", query=path, error=str(error))
            return HTTPStatus.BAD_GATEWAY, "application/json", orjson.dumps({"error": str(error)})
        return HTTPStatus.OK, "application/json", orjson.dumps({"columns": columns, "rows": rows}, default=str)
