"""ClickHouse's HTTP interface over the embedded engine: the wire, the error codes and the outages, for tests only.

What a client of a server meets and chDB alone does not show: compression, chunked bodies, authentication, status codes,
refused connections, failures on demand. Not modelled: streaming, progress headers, query cancel, external data.
"""

from __future__ import annotations

import base64
import contextlib
import re
import socket
import tempfile
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

import lz4.frame
import zstandard
from chdb.state.sqlitelike import Connection

# Parameters of the interface itself; everything else in the URL is a setting or a param_*.
STRUCTURAL = {"database", "query", "query_id", "client_protocol_version", "session_id", "session_timeout"}
TRANSPORT = {"enable_http_compression", "send_progress_in_http_headers", "http_headers_progress_interval_ms"}
IGNORED = {*TRANSPORT, "cancel_http_readonly_queries_on_client_close", "wait_end_of_query", "role"}
STATUS_OF = {60: 404, 81: 404, 62: 400, 47: 400, 457: 400, 516: 401}
# One newline, no more: a block of ten columns begins with the byte of a second one.
INSERT = re.compile(rb"\s*(INSERT\s+INTO\s+.*?)\s+FORMAT\s+(\w+)\n", re.IGNORECASE | re.DOTALL)
FORMAT = re.compile(r"\bFORMAT\s+(\w+)\s*$", re.IGNORECASE)
CODE = re.compile(r"Code:\s*(\d+)")
WRITES = re.compile(rb"\s*(CREATE|ALTER|DROP|RENAME|INSERT)\s", re.IGNORECASE)
DDL = re.compile(rb"\s*(CREATE|ALTER|DROP|RENAME)\s", re.IGNORECASE)
ACCESS_DENIED, READONLY = 497, 164


@dataclass
class _Failure:
    status: int
    code: int
    match: bytes
    after: bool  # the engine does the work, and then the answer is lost


class ClickHouseServer:
    """Listens on loopback from ``start`` to ``stop``; the data stay in the folder. ``port`` is kept over a restart."""

    def __init__(self, folder: Path, password: str = "") -> None:
        self.folder, self.password = str(folder.resolve()), password
        self.port = 0
        self.inserts: list[dict[str, str]] = []
        self.may_write_only: set[str] = set()  # users who may neither create nor alter
        self.may_read_only: set[str] = set()  # users who may not write either
        self.refused: list[bytes] = []  # their statements that did
        self.version = ""  # what it says it is, where that is another than the engine's
        self.clock_off_s = 0  # how far its clock is ahead
        self._failures: deque[_Failure] = deque()
        self._lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None
        self._held: Any = None

    def start(self) -> Self:
        # With the last handle the engine goes down, and every request would start it again.
        self._held = Connection(self.folder)
        self._server = _Server(("127.0.0.1", self.port), _handler(self))
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
            self._held.close()

    def fail_next(self, n: int, status: int = 500, code: int = 252, match: bytes = b"", after: bool = False) -> None:
        """Fail the next n requests whose statement contains ``match``; with ``after`` the work is done all the same."""
        with self._lock:
            self._failures.extend([_Failure(status, code, match, after)] * n)

    def failure_for(self, statement: bytes) -> _Failure | None:
        with self._lock:
            for failure in self._failures:
                if failure.match in statement:
                    self._failures.remove(failure)
                    return failure
        return None

    def as_it_says(self, statement: bytes) -> bytes:
        """What it tells of itself: its version and its clock."""
        if self.version:
            statement = statement.replace(b"version()", f"'{self.version}'".encode())
        if self.clock_off_s:
            statement = re.sub(rb"\bnow64\(\)", f"(now64() + INTERVAL {self.clock_off_s} SECOND)".encode(), statement)
        return statement

    def execute(self, statement: bytes, values: dict[str, str]) -> tuple[bytes, str]:
        """Run one statement on a handle of its own: (bytes, format of a result set or "")."""
        handle = Connection(self.folder)
        try:
            if database := values.get("database"):
                handle.query(f"USE `{database}`", "TabSeparated")
            for name, value in values.items():
                if name not in STRUCTURAL | IGNORED and not name.startswith("param_"):
                    handle.query(f"SET {name} = '{value}'", "TabSeparated")
            params = {name.removeprefix("param_"): v for name, v in values.items() if name.startswith("param_")}
            if found := INSERT.match(statement):
                with self._lock:
                    self.inserts.append({"statement": found[1].decode(), **values})
                return self._insert(handle, found, statement[found.end() :]), ""
            text = statement.decode()
            form = FORMAT.search(text)
            result = handle.query(text, form[1] if form else "TabSeparated", params=params)
            return result.bytes() or b"", form[1] if form else ""
        finally:
            handle.close()

    def _insert(self, handle: Any, found: re.Match[bytes], block: bytes) -> bytes:
        with tempfile.NamedTemporaryFile(suffix=".block") as file:
            file.write(block)
            file.flush()
            handle.query(f"{found[1].decode()} FROM INFILE '{file.name}' FORMAT {found[2].decode()}", "TabSeparated")
        return b""


class _Server(ThreadingHTTPServer):
    """Ends its open connections when it closes, as a server that goes away does."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self._connections: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        super().server_close()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def _handler(owner: ClickHouseServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Without both of these every request waits 40 ms for a delayed acknowledgement.
        disable_nagle_algorithm = True
        wbufsize = -1

        def do_GET(self) -> None:
            if self.path == "/ping":
                self._reply(200, b"Ok.\n", {})
            else:
                self._run(b"")

        def do_POST(self) -> None:
            body = _body(self)
            try:
                body = _decoded(body, self.headers.get("Content-Encoding", ""))
            except Exception as error:  # a body that its sender broke off in the middle
                self._fail(500, 271, f"cannot decompress: {error}")
                return
            self._run(body)

        def _run(self, body: bytes) -> None:
            values = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
            if "multipart/form-data" in (kind := self.headers.get("Content-Type", "")):
                values |= _form(body, kind)
                body = b""
            statement = b"\n".join(part for part in (values.pop("query", "").encode(), body) if part)
            user, password = self._account()
            if password != owner.password:
                self._fail(401, 516, "Authentication failed")
                return
            if user in owner.may_read_only and WRITES.match(statement):
                self._fail(500, READONLY, f"{user}: Cannot execute query in readonly mode. (READONLY)")
                return
            statement = owner.as_it_says(statement)
            if user in owner.may_write_only and DDL.match(statement):
                owner.refused.append(statement)
                self._fail(403, ACCESS_DENIED, f"{user}: Not enough privileges. (ACCESS_DENIED)")
                return
            failure = owner.failure_for(statement)
            if failure is not None and not failure.after:
                self._fail(failure.status, failure.code, "injected failure")
                return
            try:
                data, form = owner.execute(statement, values)
            except Exception as error:  # the engine raises RuntimeError for everything
                code = int(found[1]) if (found := CODE.search(str(error))) else 1002
                self._fail(STATUS_OF.get(code, 500), code, str(error))
                return
            if failure is not None:
                self._fail(failure.status, failure.code, "injected failure after the work")
                return
            headers = {"X-ClickHouse-Format": form} if form else {}
            wanted = self.headers.get("Accept-Encoding", "") if "enable_http_compression" in values else ""
            if data and "lz4" in wanted:
                data, headers["Content-Encoding"] = lz4.frame.compress(data), "lz4"
            self._reply(200, data, headers)

        def _account(self) -> tuple[str, str]:
            """User and password."""
            seen = self.headers.get("Authorization", "").removeprefix("Basic ")
            user, _, password = base64.b64decode(seen).decode().partition(":") if seen else ("", "", "")
            return user or self.headers.get("X-ClickHouse-User", ""), password

        def _fail(self, status: int, code: int, words: str) -> None:
            text = words if words.startswith("Code:") else f"Code: {code}. DB::Exception: {words}"
            self._reply(status, text.encode(), {"X-ClickHouse-Exception-Code": str(code)})

        def _reply(self, status: int, data: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "X-ClickHouse-Timezone": "UTC", "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    return Handler


def _body(request: BaseHTTPRequestHandler) -> bytes:
    if request.headers.get("Transfer-Encoding", "").lower() != "chunked":
        return request.rfile.read(int(request.headers.get("Content-Length", "0")))
    pieces = []
    while size := int(request.rfile.readline().split(b";")[0], 16):
        pieces.append(request.rfile.read(size))
        request.rfile.readline()
    request.rfile.readline()
    return b"".join(pieces)


def _decoded(body: bytes, encoding: str) -> bytes:
    """Whole: a driver sends an insert of many rows as several frames, one after another."""
    decoders: dict[str, Callable[[], Any]] = {
        "lz4": lz4.frame.LZ4FrameDecompressor,
        "zstd": lambda: zstandard.ZstdDecompressor().decompressobj(),
    }
    if not encoding:
        return body
    data = b""
    while body:
        frame = decoders[encoding]()
        data += frame.decompress(body)
        if not frame.eof:
            raise ValueError("broken off in the middle of a frame")
        body = frame.unused_data or b""
    return data


def _form(body: bytes, kind: str) -> dict[str, str]:
    boundary = kind.split("boundary=")[1].strip('"').encode()
    found = {}
    for part in body.split(b"--" + boundary)[1:-1]:
        head, _, value = part.partition(b"\r\n\r\n")
        name = re.search(rb'name="([^"]+)"', head)
        if name:
            found[name[1].decode()] = value.removesuffix(b"\r\n").decode()
    return found


if __name__ == "__main__":  # FOLDER PORT: a server in a process of its own, until it is ended
    import signal
    import sys

    alone = ClickHouseServer(Path(sys.argv[1]))
    alone.port = int(sys.argv[2])
    alone.start()
    signal.pause()
