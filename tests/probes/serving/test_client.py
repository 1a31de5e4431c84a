"""Is every call bounded in time and memory, whatever answers, and does each failure say what was there and is wanted?

Times are bounded from above by ten times the limit that was set; none is asserted to be short.
"""

from __future__ import annotations

import json
import resource
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from probes.errors import BadNumbers, EngineAway, Refused, Unreplayable
from probes.serving.client import Client, Limits
from probes.serving.engine import Address
from tests.certificates import Authority
from tests.serving_engines import transport
from tests.serving_engines.replies import Reply, Settings
from tests.serving_engines.shim import Server, serving

MODELS = "/v1/models"
SECRET = "s3cret-token"
PROMPT = "words of a customer"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@contextmanager
def asking(url: str, timeout_s: float = 20.0, most_bytes: int = 1_000_000, token_file: str = "") -> Iterator[Client]:
    with Client(Address(url, token_file), Limits(timeout_s, most_bytes)) as client:
        yield client


def test_json_comes_back(server: Server) -> None:
    with asking(server.url) as client:
        assert client.get("/version") == {"version": "0.33.0"}
        assert client.post("/tokenize", {"prompt": "lost"})["tokens"] == list(b"lost")


@pytest.mark.parametrize(
    ("spoil", "kind", "words"),
    [
        (transport.html, Unreplayable, "HTML, wanted JSON"),
        (transport.empty, Unreplayable, "0 bytes that are not JSON"),
        (transport.broken_json, Unreplayable, "not JSON"),
        (transport.edited(lambda value: value.update(x=float("nan"))), BadNumbers, "NaN or infinite"),
        (transport.edited(lambda value: value.update(x=float("-inf"))), BadNumbers, "NaN or infinite"),
        (transport.cut, EngineAway, "broke off"),
        (transport.redirect("http://127.0.0.1:1/v1/models"), Unreplayable, "a redirect"),
        (transport.status(400), Unreplayable, "HTTP 400"),
        (transport.status(401), Unreplayable, "is token_file right"),
        (transport.status(403), Unreplayable, "is token_file right"),
        (transport.status(404), Unreplayable, "no such path, or no model"),
        (transport.status(429), EngineAway, "too much to do"),
        (transport.status(500), EngineAway, "HTTP 500"),
        (transport.status(503), EngineAway, "HTTP 503"),
        (transport.huge, Unreplayable, "more than 1000000 bytes"),
    ],
)
def test_a_bad_answer_is_told_in_words(
    server: Server, spoil: transport.Spoil, kind: type[Exception], words: str
) -> None:
    with asking(server.url, timeout_s=60.0) as client:
        server.transport.set(spoil, only=MODELS)
        with pytest.raises(Unreplayable, match=words) as raised:
            client.get(MODELS)
        assert type(raised.value) is kind
        assert str(raised.value).startswith(server.url + MODELS)
        assert client.get("/version") == {"version": "0.33.0"}, "the next call does not read the rest of this answer"


@pytest.mark.parametrize("spoil", [transport.slow(60.0), transport.dripping, transport.endless])
def test_an_answer_that_does_not_end_is_given_up_in_time(server: Server, spoil: transport.Spoil) -> None:
    """Each single read of two of them is quick: the limit is one for the whole call."""
    server.transport.set(spoil, only=MODELS)
    with asking(server.url, timeout_s=0.5, most_bytes=10**9) as client:
        began = time.monotonic()
        with pytest.raises(EngineAway, match=r"no whole answer within 0.5 s: it is slow or overloaded$"):
            client.get(MODELS)
        assert time.monotonic() - began < 5.0


def test_a_huge_body_takes_no_memory(server: Server) -> None:
    content = transport.huge(Reply(200, b""), threading.Event())
    assert isinstance(content.content, bytes) and len(content.content) > 100_000_000
    server.transport.set(lambda _reply, _ended: content, only=MODELS)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with asking(server.url) as client, pytest.raises(Unreplayable):
        client.get(MODELS)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 20_000_000


@contextmanager
def raw_server(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """What answers is not HTTP as a library writes it."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        with connection:
            answer(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        listening.close()
        thread.join(10.0)


def test_headers_that_drip_are_given_up_in_time() -> None:
    ended = threading.Event()

    def drip(connection: socket.socket) -> None:
        connection.recv(10_000)
        try:
            for byte in b"HTTP/1.1 200 OK\r\nX-Long: " + b"a" * 10_000:
                if ended.wait(0.05):
                    return
                connection.send(bytes([byte]))
        except OSError:
            return

    with raw_server(drip) as url, asking(url, timeout_s=0.5) as client:
        began = time.monotonic()
        with pytest.raises(EngineAway, match="no whole answer"):
            client.get("/version")
        assert time.monotonic() - began < 5.0
        ended.set()


def test_another_protocol_is_no_engine() -> None:
    def greet(connection: socket.socket) -> None:
        connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
        connection.recv(10_000)

    with raw_server(greet) as url, asking(url) as client, pytest.raises(EngineAway, match="is not HTTP"):
        client.get("/version")


def test_nothing_that_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with asking(f"http://127.0.0.1:{port}") as client, pytest.raises(EngineAway, match="no connection"):
        client.get("/version")


def test_an_engine_that_came_back_is_asked_again(server: Server) -> None:
    with asking(server.url) as client:
        server.transport.set(transport.cut)
        with pytest.raises(EngineAway):
            client.get("/version")
        server.transport.set(None)
        assert client.get("/version") == {"version": "0.33.0"}


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), ("", None), ("soon", None)])
def test_retry_after_is_passed_on(server: Server, header: str, seconds: float | None) -> None:
    assert again_in_s(server, header) == seconds


def test_retry_after_may_be_a_date(server: Server) -> None:
    tomorrow = format_datetime(datetime.now(UTC) + timedelta(days=1))
    assert again_in_s(server, tomorrow) == pytest.approx(86_400, abs=600)


def again_in_s(server: Server, header: str) -> float | None:
    server.transport.set(transport.status(429, Retry_After=header), only=MODELS)
    with asking(server.url) as client, pytest.raises(EngineAway) as raised:
        client.get(MODELS)
    return raised.value.again_in_s


def test_the_token_is_read_for_each_request_and_told_to_nobody(tmp_path: Path) -> None:
    file = tmp_path / "token"
    with serving(settings=Settings(token=SECRET)) as server, asking(server.url, token_file=str(file)) as client:
        with pytest.raises(Unreplayable, match="token_file holds no bearer token"):
            client.get(MODELS)
        file.write_text(f"old-{SECRET}\n")
        with pytest.raises(Unreplayable, match="HTTP 401") as raised:
            client.get(MODELS)
        assert SECRET not in str(raised.value)
        file.write_text(f"{SECRET}\n")
        assert client.get(MODELS)["object"] == "list"


@pytest.mark.parametrize("content", ["", "two words", "a\nb", "a\x00"])
def test_a_file_that_holds_no_token(tmp_path: Path, server: Server, content: str) -> None:
    (tmp_path / "token").write_text(content)
    with asking(server.url, token_file=str(tmp_path / "token")) as client:
        with pytest.raises(Unreplayable, match="token_file holds no bearer token"):
            client.get("/version")
    assert not server.questions


def test_no_message_holds_a_prompt(server: Server) -> None:
    """An engine that refuses a request quotes it; its codes alone are passed on."""
    error = {"message": f"cannot read {PROMPT}", "type": "BadRequestError", "param": PROMPT, "code": 400}
    echoed = json.dumps({"error": error}).encode()
    server.transport.set(lambda _reply, _ended: Reply(400, echoed))
    with asking(server.url) as client, pytest.raises(Unreplayable, match="BadRequestError") as raised:
        client.post("/v1/completions", {"prompt": PROMPT})
    assert PROMPT not in str(raised.value)


@pytest.mark.parametrize(
    "url", ["ftp://host", "host:8000", "http://user:s3cret@host:1", "http://host:1/v1", "http://host?key=s3cret", ""]
)
def test_an_address_that_is_more_than_scheme_host_and_port(url: str) -> None:
    with pytest.raises(Refused) as raised:
        Client(Address(url))
    assert "s3cret" not in str(raised.value)


def test_a_compressed_body_is_not_unpacked(server: Server) -> None:
    """A few kilobytes of it may be gigabytes."""
    server.transport.set(lambda _reply, _ended: Reply(200, b"x", headers={"Content-Encoding": "gzip"}))
    with asking(server.url) as client, pytest.raises(Unreplayable, match="a compressed body"):
        client.get("/version")


def test_deep_nesting_is_no_crash(server: Server) -> None:
    server.transport.set(lambda _reply, _ended: Reply(200, b"[" * 200_000))
    with asking(server.url) as client, pytest.raises(Unreplayable, match="not JSON"):
        client.get("/version")


def test_no_proxy_of_the_environment_is_asked(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    with asking(server.url) as client:
        assert client.get("/version") == {"version": "0.33.0"}


def test_one_request_at_a_time(server: Server) -> None:
    server.transport.set(transport.slow(0.05))
    with asking(server.url) as client:
        threads = [threading.Thread(target=client.get, args=("/version",)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (len(server.questions), server.most_at_once) == (8, 1)


class _Hello(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@contextmanager
def over_tls(cert: Path, key: Path) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    listening = HTTPServer(("127.0.0.1", 0), _Hello)
    listening.socket = context.wrap_socket(listening.socket, server_side=True, do_handshake_on_connect=True)
    listening.handle_error = lambda *_: None  # type: ignore[method-assign]
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"https://127.0.0.1:{listening.server_address[1]}"
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()


def test_a_certificate_of_the_authority_that_ca_file_names(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with over_tls(*authority.sign("engine")) as url:
        with Client(Address(url, ca_file=str(authority.cert)), Limits(20.0)) as client:
            assert client.get("/") == {}
        with Client(Address(url), Limits(20.0)) as client, pytest.raises(Unreplayable, match="certificate"):
            client.get("/")


def test_a_certificate_of_another_name(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with over_tls(*authority.sign("engine", hosts="DNS:elsewhere")) as url:
        with Client(Address(url, ca_file=str(authority.cert)), Limits(20.0)) as client:
            with pytest.raises(Unreplayable, match="ca_file to name the authority"):
                client.get("/")


def test_a_ca_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("no certificate")
    with Client(Address("https://127.0.0.1:1", ca_file=str(tmp_path / "ca.crt"))) as client:
        with pytest.raises(Unreplayable, match="ca_file cannot be read"):
            client.get("/")
