"""A small HTTP server that idle or slow connections cannot exhaust: one thread reads every request, a few more work.

Connections that have sent no whole request are limited in number and in time; beyond the number the oldest of them is
closed, so that whoever connects and asks at once is answered however many others stay silent. What a route answers
directly is answered on the reading thread and never waits for work that hangs.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http import HTTPStatus
from urllib.parse import parse_qsl, urlsplit

import structlog

log = structlog.get_logger(__name__)

Answer = tuple[int, str, bytes]
Work = Callable[[], Answer]
# Path and parameters -> status, content type and body; or, where these take time, a function that makes them.
Route = Callable[[str, Mapping[str, str]], Answer | Work]
Listen = Callable[[int], Sequence[socket.socket]]

IDLE_S = 5.0  # for a whole request to arrive, and for an answer to be taken
MOST_SILENT = 32
MOST_WORK = 16  # requests that are worked on or wait for it
WORKERS = 4
MOST_BYTES = 16 * 1024
RETRY_S = 1.0
ACCEPTED_AT_ONCE = 64  # each is a file descriptor until the oldest are closed
BACKLOG = 1024  # what the kernel holds meanwhile; beyond it a client waits for its second try, a second later
# Of a machine without IPv6, or without IPv4.
NO_SUCH_FAMILY = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT)


def every_interface(port: int) -> list[socket.socket]:
    """One socket for both IP families where the machine has IPv6, else one for IPv4. Raises OSError."""
    if socket.has_dualstack_ipv6():
        try:
            return [_listening("::", port)]
        except OSError as error:
            if error.errno not in NO_SUCH_FAMILY:
                raise
    return [_listening("0.0.0.0", port)]


def loopback(port: int) -> list[socket.socket]:
    """127.0.0.1 and ::1 on one port, as far as the machine has them. Raises OSError where it has neither, or the port
    is taken on one of them."""
    sockets: list[socket.socket] = []
    absent = OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    for host in ("127.0.0.1", "::1"):
        try:
            sockets.append(_listening(host, port))
        except OSError as error:
            if error.errno not in NO_SUCH_FAMILY:
                _close(sockets)
                raise
            absent = error
        else:
            port = sockets[0].getsockname()[1]
    if not sockets:
        raise absent
    return sockets


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG, dualstack_ipv6=host == "::")


def _close(sockets: Sequence[socket.socket]) -> None:
    for each in sockets:
        each.close()


class HttpServer:
    """Answers GET and HEAD until closed. A port that is taken is no error: ``trouble`` says so, and it is tried again
    every second.

    name: of its threads; port: wanted, 0 for a free one; ``port`` holds the one in use, 0 while there is none
    """

    def __init__(self, name: str, listen: Listen, port: int, route: Route) -> None:
        self._name, self._listen, self._wanted, self._route = name, listen, port, route
        self._sockets: Sequence[socket.socket] = ()
        self._silent: dict[asyncio.StreamWriter, None] = {}  # in the order of their arrival
        self._open: set[asyncio.StreamWriter] = set()
        self._work = 0
        self.port, self.trouble = 0, ""

    def open(self) -> None:
        """Listen, or begin to try; returns at once."""
        self._try_to_listen()
        self._stop = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix=self._name)
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End every connection. Work that hangs is abandoned with its thread."""
        with suppress(RuntimeError):  # its thread has ended by itself
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _try_to_listen(self) -> None:
        try:
            self._sockets = self._listen(self._wanted)
        except OSError as error:
            trouble = f"port {self._wanted}: {os.strerror(error.errno or 0)}; tried again every {RETRY_S:.0f} s"
            if trouble != self.trouble:
                log.warning("port_not_served", port=self._wanted, why=os.strerror(error.errno or 0))
            self.trouble = trouble
            return
        self.port, self.trouble = self._sockets[0].getsockname()[1], ""

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        while not self._sockets:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), RETRY_S)
                return
            self._try_to_listen()
        servers = [
            await asyncio.start_server(self._connected, sock=each, limit=MOST_BYTES, backlog=ACCEPTED_AT_ONCE)
            for each in self._sockets
        ]
        for each in self._sockets:
            each.listen(BACKLOG)  # asyncio has set it to what it accepts at once
        await self._stop.wait()
        for server in servers:
            server.close()
        for writer in self._open:
            writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: one request, one answer."""
        while len(self._silent) >= MOST_SILENT:
            oldest = next(iter(self._silent))
            del self._silent[oldest]
            oldest.transport.abort()
        self._silent[writer] = None
        self._open.add(writer)
        writer.transport.set_write_buffer_limits(0)  # so that drain() waits until all is with the kernel
        try:
            async with asyncio.timeout(IDLE_S):
                head = await reader.readuntil(b"\r\n\r\n")
            self._silent.pop(writer, None)
            answered = await self._answer(head)
            async with asyncio.timeout(IDLE_S):
                writer.write(answered)
                await writer.drain()
        except (TimeoutError, ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            writer.transport.abort()
        finally:
            self._silent.pop(writer, None)
            self._open.discard(writer)
            writer.close()

    async def _answer(self, head: bytes) -> bytes:
        try:
            method, target, _ = head.split(b"\r\n", 1)[0].decode("ascii").split(" ")
            url = urlsplit(target)
        except ValueError:
            return _reply(_plain(HTTPStatus.BAD_REQUEST), True)
        if method not in ("GET", "HEAD"):
            return _reply(_plain(HTTPStatus.METHOD_NOT_ALLOWED), True)
        try:
            answer = self._route(url.path, dict(parse_qsl(url.query)))
            if callable(answer):
                answer = await self._worked(answer)
        except Exception:
            log.exception("request_failed", path=url.path)
            answer = _plain(HTTPStatus.INTERNAL_SERVER_ERROR)
        return _reply(answer, method == "GET")

    async def _worked(self, work: Work) -> Answer:
        if self._work >= MOST_WORK:
            return _plain(HTTPStatus.SERVICE_UNAVAILABLE)
        self._work += 1
        try:
            return await self._loop.run_in_executor(self._pool, work)
        finally:
            self._work -= 1


def _plain(status: HTTPStatus) -> Answer:
    return status, "text/plain", f"{status.phrase}\n".encode()


def _reply(answer: Answer, with_body: bool) -> bytes:
    status, kind, body = answer
    lines = (
        f"HTTP/1.1 {int(status)} {HTTPStatus(status).phrase}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        "Connection: close",
    )
    return "\r\n".join((*lines, "", "")).encode() + (body if with_body else b"")
