"""Connections that cost nothing to open must cost the server next to nothing to hold."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack

import httpx
import pytest

from agent.supervision import http_server
from agent.supervision.http_server import (
    MOST_SILENT,
    MOST_WORK,
    WORKERS,
    Answer,
    HttpServer,
    Work,
    every_interface,
    loopback,
)

SILENT = 3_000
release = threading.Event()


def route(path: str, params: Mapping[str, str]) -> Answer | Work:
    if path == "/broken":
        raise KeyError(path)
    if path == "/work":
        return lambda: (200, "text/plain", b"worked")
    if path == "/hangs":
        return lambda: (200, "text/plain", str(release.wait(60)).encode())
    return 200, "text/plain", f"{path} {dict(params)}".encode()


@pytest.fixture
def server() -> Iterator[HttpServer]:
    release.clear()
    served = HttpServer("served", every_interface, 0, route)
    served.open()
    yield served
    release.set()
    served.close()


def get(port: int, path: str, host: str = "127.0.0.1") -> httpx.Response:
    return httpx.get(f"http://{host}:{port}{path}", timeout=20)


def is_open(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) != b""
    except BlockingIOError:
        return True
    except ConnectionError:
        return False


def test_whoever_asks_is_answered_while_thousands_stay_silent(server: HttpServer) -> None:
    """The oldest silent one is closed for each that comes: at most MOST_SILENT are held, by no thread of their own."""
    before, address = threading.active_count(), ("127.0.0.1", server.port)
    with ExitStack() as opened:
        silent = [opened.enter_context(socket.create_connection(address, timeout=20)) for _ in range(SILENT)]
        assert get(server.port, "/x").text == "/x {}"
        assert get(server.port, "/work").text == "worked"
        assert sum(map(is_open, silent)) <= MOST_SILENT
        assert threading.active_count() - before <= WORKERS


def test_a_request_that_arrives_byte_by_byte_is_given_up(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "IDLE_S", 0.2)
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as slow:
        slow.sendall(b"GET / HT")
        assert slow.recv(1) == b""


def test_work_that_hangs_is_bounded_and_keeps_no_direct_answer_waiting(server: HttpServer) -> None:
    with ExitStack() as opened:
        for _ in range(MOST_WORK):
            hanging = opened.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=20))
            hanging.sendall(b"GET /hangs HTTP/1.1\r\n\r\n")
        while get(server.port, "/x").status_code == 200 and server._work < MOST_WORK:
            pass
        assert get(server.port, "/work").status_code == 503
        assert get(server.port, "/x").status_code == 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /a?b=c HTTP/1.1\r\nHost: x\r\n\r\n", b"200 OK"),
        (b"HEAD /a HTTP/1.0\r\n\r\n", b"200 OK"),
        (b"POST /a HTTP/1.1\r\n\r\n", b"405 Method Not Allowed"),
        (b"GET /broken HTTP/1.1\r\n\r\n", b"500 Internal Server Error"),
        (b"GET\r\n\r\n", b"400 Bad Request"),
        (b"\xff\xfe \xff HTTP/1.1\r\n\r\n", b"400 Bad Request"),
        (b"GET //[ HTTP/1.1\r\n\r\n", b"400 Bad Request"),
    ],
)
def test_every_request_gets_the_status_that_it_deserves(server: HttpServer, sent: bytes, status: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(sent)
        reply = b"".join(iter(lambda: connection.recv(4096), b""))
    assert reply.startswith(b"HTTP/1.1 " + status + b"\r\n")
    assert reply.endswith(b"/a {'b': 'c'}") == (b"?b=c" in sent)


def test_a_request_without_an_end_is_cut_off(server: HttpServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as endless:
        with pytest.raises(ConnectionError):
            while True:
                endless.sendall(b"x" * 65536)


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="a machine without IPv6")
@pytest.mark.parametrize("listen", [every_interface, loopback])
def test_both_ip_families_are_served_on_one_port(listen: http_server.Listen) -> None:
    served = HttpServer("served", listen, 0, route)
    served.open()
    try:
        assert [get(served.port, "/x", host).status_code for host in ("127.0.0.1", "[::1]")] == [200, 200]
    finally:
        served.close()


@pytest.mark.parametrize(("absent", "host"), [(socket.AF_INET6, "127.0.0.1"), (socket.AF_INET, "[::1]")])
@pytest.mark.parametrize("listen", [every_interface, loopback])
def test_a_machine_with_one_ip_family_is_served_by_that(
    listen: http_server.Listen, absent: int, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = socket.create_server

    def without(address: tuple[str, int], *, family: int, **options: object) -> socket.socket:
        if family == absent:
            raise OSError(errno.EADDRNOTAVAIL, "no such family")
        return create(address, family=family, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "create_server", without)
    served = HttpServer("served", listen, 0, route)
    served.open()
    try:
        assert get(served.port, "/x", host).status_code == 200
    finally:
        served.close()


def test_closing_does_not_wait_for_work_that_hangs(server: HttpServer) -> None:
    other = HttpServer("other", every_interface, 0, route)
    other.open()
    with socket.create_connection(("127.0.0.1", other.port), timeout=20) as hanging:
        hanging.sendall(b"GET /hangs HTTP/1.1\r\n\r\n")
        while not other._work:
            pass
        other.close()
        assert not release.is_set()
