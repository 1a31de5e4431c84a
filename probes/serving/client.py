"""The one HTTP client that asks a serving engine: bounded in time and memory, whatever answers at the address.

The time limit is one for the whole call, from the connection to the last byte of the body: an httpx timeout is one for
each read, which a server that sends a byte a second never exceeds. Resolving the host's name alone is the system's and
has its limits. No redirect is followed, no proxy of the environment is used and no compressed body is taken: the engine
itself is asked, never a balancer or what unpacks to more than was sent.

A message names path, status, sizes and error codes, never a token, a prompt or another text of the answer.
"""

from __future__ import annotations

import json
import re
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self
from urllib.parse import urlsplit

import httpcore

from probes.errors import BadNumbers, EngineAway, Refused, Unreplayable
from probes.serving.engine import Address

PIECE = 64 * 1024
# Engines of uvicorn close an idle connection after 5 s; one that we give up earlier is never closed under a request.
IDLE_S = 2.0
OK, NO_TOKEN, FORBIDDEN, MISSING, MANY, SERVER_ERROR = 200, 401, 403, 404, 429, 500
NOT_THERE = (400, 404, 405, 422, 501)
CODE = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,39}")  # an error's type or the name of a field: no sentence


@dataclass(frozen=True, slots=True)
class Limits:
    """timeout_s: of one whole call; most_bytes: of one body. 20 tokens listed at each of 1,023 positions are 2 MB."""

    timeout_s: float = 30.0
    most_bytes: int = 8_000_000


@dataclass(frozen=True, slots=True)
class Reply:
    """path: what was asked; headers: names in lower case"""

    path: str
    status: int
    headers: Mapping[str, str]
    body: bytes


class Client:
    """Asks one engine, one request at a time: a second thread waits for its turn, within its own time limit.

    Raises Refused for an address that is more than scheme, host and port.
    """

    def __init__(self, address: Address, limits: Limits | None = None) -> None:
        self._pool: httpcore.ConnectionPool | None = None
        _check(address)
        self.address, self._limits = address, limits or Limits()
        self._turn, self._clock = threading.Lock(), _Deadline()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        """The connection ends with what asks through it, whoever forgets it."""
        self.close()

    def close(self) -> None:
        """A later call opens a connection again."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    def get(self, path: str) -> Any:
        """The JSON at this path. Raises EngineAway and Unreplayable."""
        return self.json_of(self.ask("GET", path))

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON that answers this one. Raises EngineAway and Unreplayable."""
        return self.json_of(self.ask("POST", path, body))

    def text(self, path: str) -> str:
        """The plain text at this path. Raises EngineAway and Unreplayable."""
        return self.text_of(self.ask("GET", path))

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Reply:
        """The reply with whatever status, its body within the limit. Raises EngineAway where nothing comes in time, and
        Unreplayable where the body is too large or the certificate is not the engine's."""
        if not self._turn.acquire(timeout=self._limits.timeout_s):
            self._away(path, f"another request takes longer than {self._limits.timeout_s:g} s")
        try:
            self._clock.start(self._limits.timeout_s)
            return self._sent(method, path, body)
        except httpcore.TimeoutException as error:
            self.close()
            limit = f"within {self._limits.timeout_s:g} s"
            if isinstance(error, httpcore.ConnectTimeout):
                raise self._no_answer(path, f"no connection {limit}") from None
            self._away(path, f"no whole answer {limit}: it is slow or overloaded")
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            self.close()
            if _is_certificate(error):
                self._unusable(
                    path,
                    "its certificate is not one for this host by the authorities that are trusted; "
                    "wanted ca_file to name the authority, and the host's name in the certificate",
                )
            raise self._no_answer(path, _trouble(error)) from None
        except BaseException:
            self.close()  # a body that was not read to its end must not be taken for the next answer
            raise
        finally:
            self._turn.release()

    def json_of(self, reply: Reply) -> Any:
        """The JSON of a reply. Raises EngineAway and Unreplayable, in words, for any status but 200 and any other
        content; NaN and Infinity are no JSON."""
        content = self._checked(reply).body
        if "html" in reply.headers.get("content-type", "") or content.lstrip()[:1] == b"<":
            self._unusable(reply.path, "HTML, wanted JSON: is this a proxy, or another program's address?")
        try:
            return json.loads(content, parse_constant=_not_a_number)
        except _NotANumber:
            raise BadNumbers(
                self.address.url + reply.path,
                "the engine's answer holds a number that is NaN or infinite, wanted finite ones: does it compute "
                "beyond its number format?",
            ) from None
        except (ValueError, RecursionError):
            self._unusable(reply.path, f"{len(content)} bytes that are not JSON, wanted the engine's JSON")

    def text_of(self, reply: Reply) -> str:
        """The plain text of a reply. Raises EngineAway and Unreplayable for any status but 200."""
        return self._checked(reply).body.decode("utf-8", "replace")

    def json_or_none(self, reply: Reply) -> Any:
        """The JSON of a reply, None where it has no status 200 or is no JSON: another program may answer there."""
        try:
            return self.json_of(reply)
        except Unreplayable:
            return None

    def raise_unless_missing(self, reply: Reply) -> None:
        """Raises EngineAway and Unreplayable for a status that says more than that there is no such path."""
        if reply.status not in NOT_THERE:
            self._checked(reply)

    def refused(self, path: str, why: str) -> NoReturn:
        """Raises Unreplayable for an answer of another form or content than the dialect knows."""
        self._unusable(path, why)

    def _sent(self, method: str, path: str, body: Mapping[str, Any] | None) -> Reply:
        content = None if body is None else json.dumps(body, allow_nan=False).encode()
        with self._opened().stream(
            method, self.address.url.rstrip("/") + path, headers=list(self._headers(content).items()), content=content
        ) as answer:
            headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in answer.headers}
            if 300 <= answer.status < 400:
                self._unusable(
                    path,
                    f"a redirect (HTTP {answer.status}), wanted the engine itself: redirects are not "
                    "followed, name the address that it redirects to",
                )
            if headers.get("content-encoding", "identity") != "identity":
                self._unusable(path, "a compressed body, wanted a plain one")
            return Reply(path, answer.status, headers, self._body(path, answer))

    def _body(self, path: str, answer: httpcore.Response) -> bytes:
        pieces, size = [], 0
        for piece in answer.iter_stream():
            size += len(piece)
            if size > self._limits.most_bytes:
                self._unusable(path, f"a body of more than {self._limits.most_bytes} bytes, which were not read on")
            pieces.append(piece)
        return b"".join(pieces)

    def _opened(self) -> httpcore.ConnectionPool:
        if self._pool is None:
            self._pool = httpcore.ConnectionPool(
                ssl_context=self._ssl() if self.address.url.startswith("https") else None,
                max_connections=1,
                keepalive_expiry=IDLE_S,
                network_backend=_Backend(self._clock),
            )
        return self._pool

    def _ssl(self) -> ssl.SSLContext:
        if not self.address.ca_file:
            return ssl.create_default_context()
        try:
            return ssl.create_default_context(cafile=self.address.ca_file)
        except (OSError, ssl.SSLError):
            self._unusable("", "ca_file cannot be read as PEM certificates; wanted a mounted file with the authority's")

    def _headers(self, content: bytes | None) -> dict[str, str]:
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", **self.address.headers}
        headers |= {"Content-Type": "application/json"} if content is not None else {}
        return headers | ({"Authorization": f"Bearer {self._token()}"} if self.address.token_file else {})

    def _token(self) -> str:
        """Read for each request, so that a token that was replaced is in force at once."""
        try:
            token = Path(self.address.token_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            token = ""
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            self._unusable("", "token_file holds no bearer token that can be read; wanted a mounted file with it alone")
        return token

    def _checked(self, reply: Reply) -> Reply:
        if reply.status != OK:
            raise self._refusal(reply)
        return reply

    def _refusal(self, reply: Reply) -> Unreplayable:
        """What a status other than 200 means, and what to do."""
        where, what = self.address.url + reply.path, f"HTTP {reply.status}{_codes(reply.body)}"
        if reply.status in (NO_TOKEN, FORBIDDEN):
            held = "the token of token_file" if self.address.token_file else "a request without a token"
            wanted = "wanted a token that the engine accepts: is token_file right?"
            return Unreplayable(where, f"{what} to {held}; {wanted}")
        if reply.status == MANY or reply.status >= SERVER_ERROR:
            return EngineAway(where, f"{what}: it starts, stops or has too much to do", _wait_s(reply.headers))
        if reply.status == MISSING:
            return Unreplayable(where, f"{what}: it has no such path, or no model of that name")
        return Unreplayable(where, f"{what}: the request was refused, wanted 200")

    def _no_answer(self, path: str, why: str) -> EngineAway:
        return EngineAway(self.address.url + path, f"{why}; wanted an engine that listens there")

    def _away(self, path: str, why: str, again_in_s: float | None = None) -> NoReturn:
        raise EngineAway(self.address.url + path, why, again_in_s)

    def _unusable(self, path: str, why: str) -> NoReturn:
        raise Unreplayable(self.address.url + path, why)


class _Deadline:
    """When the call that is under way has to be over."""

    def __init__(self) -> None:
        self._ends = 0.0

    def start(self, seconds: float) -> None:
        self._ends = time.monotonic() + seconds

    def left(self, error: type[httpcore.TimeoutException]) -> float:
        """Seconds, above 0. Raises ``error`` once none are left."""
        seconds = self._ends - time.monotonic()
        if seconds <= 0:
            raise error
        return seconds


class _Backend(httpcore.SyncBackend):
    """Connections whose every wait ends with the call."""

    def __init__(self, deadline: _Deadline) -> None:
        self._deadline = deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002 - the whole call's is what counts
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.NetworkStream:
        left = self._deadline.left(httpcore.ConnectTimeout)
        return _Stream(super().connect_tcp(host, port, left, local_address, socket_options), self._deadline)


class _Stream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream, deadline: _Deadline) -> None:
        self._stream, self._deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002 - the whole call's
        return self._stream.read(min(max_bytes, PIECE), self._deadline.left(httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        self._stream.write(buffer, self._deadline.left(httpcore.WriteTimeout))

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None  # noqa: ARG002
    ) -> httpcore.NetworkStream:  # fmt: skip
        left = self._deadline.left(httpcore.ConnectTimeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, left), self._deadline)

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _check(address: Address) -> None:
    """Raises Refused for an address that holds more than scheme, host and port; it may hold a password."""
    parts = urlsplit(address.url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
        raise Refused("the engine's url", "another form of address", "http://HOST:PORT or https://HOST:PORT, no path")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise Refused("the engine's url", "a user, a password or a query in it", "a token in token_file instead")


class _NotANumber(ValueError):
    pass


def _not_a_number(_name: str) -> NoReturn:
    raise _NotANumber


def _is_certificate(error: BaseException) -> bool:
    causes: list[BaseException | None] = [error, error.__cause__, error.__context__]
    return any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes) or "CERTIFICATE" in str(error)


def _trouble(error: Exception) -> str:
    """In words; the message of the error itself may quote what was sent."""
    if isinstance(error, httpcore.ConnectError):
        return "no connection: refused, or no such host"
    if isinstance(error, httpcore.ProtocolError):
        return "the connection broke off, or what answered is not HTTP"
    return "the connection was lost"


def _codes(body: bytes) -> str:
    """Names of an error that stand for themselves, and never its sentence, which may quote the request."""
    try:
        error = json.loads(body[:PIECE])
    except (ValueError, RecursionError):
        return ""
    error = error.get("error", error) if isinstance(error, dict) else {}
    values = [error.get(name) for name in ("type", "error_type", "param")] if isinstance(error, dict) else []
    codes = [value for value in values if isinstance(value, str) and CODE.fullmatch(value)]
    return f" ({', '.join(codes)})" if codes else ""


def _wait_s(headers: Mapping[str, str], now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> float | None:
    """Retry-After, as seconds or as a date (RFC 9110, section 10.2.3); None where it says nothing that can be read."""
    value = headers.get("retry-after", "")
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - now().timestamp())
