"""TLS, API versions and SASL login with a broker, byte by byte, to report the broker's own reason for a failure.

The Kafka client keeps none of these reasons: a wrong authority, a wrong password, TLS on a plain port and the reverse
all end in its "Unable to bootstrap". For diagnosis only; traffic is never read through this. What is opened here is
closed here. LayerFailed says what was observed and what to do.

Source: the Kafka protocol guide (ApiVersions 0, SaslHandshake 1, SaslAuthenticate 0, Heartbeat 0); RFC 5802 (SCRAM).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from agent.kafka.config import Config, Password

API_VERSIONS, SASL_HANDSHAKE, SASL_AUTHENTICATE, HEARTBEAT = 18, 17, 36, 12
OK, ILLEGAL_SASL_STATE, AUTHENTICATION_FAILED = 0, 34, 58
GROUP_AUTHORIZATION_FAILED = 30
CLIENT = "gapwatch-doctor"
MAX_ANSWER_BYTES = 1 << 20  # a stated length above this does not come from a broker
_TLS_ALERT = b"\x15\x03"


class LayerFailed(Exception):
    """A layer that is not as the configuration says. observed: what came back; wanted: what to do."""

    def __init__(self, observed: str, wanted: str) -> None:
        super().__init__(observed)
        self.observed, self.wanted = observed, wanted


class NotKafka(Exception):
    """The answer does not come from a broker. first: its first bytes, b"" when the other side closed the connection."""

    def __init__(self, first: bytes) -> None:
        super().__init__(first)
        self.first = first


@contextmanager
def connected(host: str, port: int, timeout_s: float) -> Iterator[socket.socket]:
    with socket.create_connection((host, port), timeout=timeout_s) as link:
        yield link


@contextmanager
def secured(link: socket.socket, host: str, config: Config) -> Iterator[ssl.SSLSocket]:
    """TLS over an open connection, as configured. Raises LayerFailed."""
    try:
        context = ssl.create_default_context(cafile=str(config.ssl_cafile) if config.ssl_cafile else None)
        context.check_hostname = config.ssl_check_hostname
        if config.ssl_certfile:
            context.load_cert_chain(config.ssl_certfile, config.ssl_keyfile)
    except (OSError, ssl.SSLError) as error:
        raise LayerFailed(
            _line(error), "PEM files in kafka.ssl_cafile, ssl_certfile and ssl_keyfile that belong together"
        ) from None
    try:
        secure = context.wrap_socket(link, server_hostname=host)
    except (OSError, ssl.SSLError) as error:
        raise tls_failure(error, host) from None
    with secure:
        yield secure


def tls_failure(error: OSError, host: str) -> LayerFailed:
    """Why a TLS handshake failed, and what to do about it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        why = error.verify_message
        if "expired" in why:
            return LayerFailed(why, "a new certificate on the broker")
        if "not yet valid" in why:
            return LayerFailed(why, "clocks that agree, or a certificate that is valid already")
        if "Hostname mismatch" in why or "IP address mismatch" in why:
            wanted = f"a certificate for {host}, or the name in it as bootstrap server, or ssl_check_hostname: false"
            return LayerFailed(why, wanted)
        return LayerFailed(why, "kafka.ssl_cafile with the authority that signed the broker's certificate")
    reason = str(getattr(error, "reason", None) or "")
    if "CERTIFICATE_REQUIRED" in reason or "HANDSHAKE_FAILURE" in reason:
        return LayerFailed(_line(error), "kafka.ssl_certfile and ssl_keyfile: the broker requires a client certificate")
    if "UNKNOWN_CA" in reason or "BAD_CERTIFICATE" in reason or "CERTIFICATE_UNKNOWN" in reason:
        return LayerFailed(_line(error), "a certificate in kafka.ssl_certfile of an authority that the broker trusts")
    if "PROTOCOL_VERSION" in reason or "UNSUPPORTED_PROTOCOL" in reason:
        return LayerFailed(_line(error), "TLS 1.2 or newer on the broker")
    return LayerFailed(
        f"no TLS on that port: {_line(error)}", "kafka.security_protocol without SSL, or the broker's TLS port"
    )


def api_versions(link: socket.socket) -> dict[int, tuple[int, int]]:
    """API key -> (oldest, newest version) that the broker supports. Raises NotKafka, OSError."""
    answer = _request(link, API_VERSIONS, 0, b"")
    error, n = struct.unpack_from(">hi", answer.ljust(6, b"\0"))
    if error != OK or not 0 < n < 1000 or len(answer) != 6 + 6 * n:
        raise NotKafka(answer[:16])
    return {key: (oldest, newest) for key, oldest, newest in struct.iter_unpack(">hhh", answer[6:])}


def accepts_without_login(link: socket.socket) -> bool:
    """Does this listener accept requests without a login? One that requires SASL closes the connection."""
    try:
        may_read_group(link, CLIENT)
    except TimeoutError:
        return True
    except (NotKafka, OSError, struct.error):
        return False
    return True


def log_in(link: socket.socket, mechanism: str, user: str, password: Password) -> None:
    """SASL as this user. Raises LayerFailed with the broker's own reason."""
    answer = _request(link, SASL_HANDSHAKE, 1, _text(mechanism))
    (error,) = struct.unpack_from(">h", answer)
    if error == ILLEGAL_SASL_STATE:
        raise LayerFailed(
            "the listener accepts no login", "kafka.security_protocol without SASL_, or the broker's SASL port"
        )
    if error != OK:
        offered = ", ".join(_texts(answer[2:])) or "none"
        raise LayerFailed(f"{mechanism} is not offered, only: {offered}", "one of these as kafka.sasl_mechanism")
    if mechanism == "PLAIN":
        _authenticate(link, f"\0{user}\0{password}".encode())
    else:
        _scram(link, mechanism.removeprefix("SCRAM-").replace("-", "").lower(), user, password)


def may_read_group(link: socket.socket, group: str) -> bool:
    """May this user be a member of the group? By a heartbeat of an unknown member: brokers check rights first."""
    answer = _request(link, HEARTBEAT, 0, _text(group) + struct.pack(">i", 0) + _text("nobody"))
    (error,) = struct.unpack_from(">h", answer)
    return bool(error != GROUP_AUTHORIZATION_FAILED)


def speaks_http(host: str, port: int, timeout_s: float) -> bool:
    """Is this an HTTP server? By a request of its own: some wait for the end of a line, which Kafka's may not have."""
    try:
        with connected(host, port, timeout_s) as link:
            link.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return link.recv(5) == b"HTTP/"
    except OSError:
        return False


def looks_like(first: bytes) -> str:
    """What an answer that does not come from a broker looks like, by its first bytes."""
    if first[:2] == _TLS_ALERT:
        return "a TLS port"
    if first.startswith(b"HTTP/"):
        return "an HTTP server"
    return f"unknown, it answered {first[:8].hex()}" if first else "it closed the connection"


def _scram(link: socket.socket, digest: str, user: str, password: Password) -> None:
    """RFC 5802 without channel binding, as Kafka does it. The server has to prove that it knows the password, too."""
    nonce = secrets.token_urlsafe(18)
    bare = f"n={user.replace('=', '=3D').replace(',', '=2C')},r={nonce}"
    first = _authenticate(link, f"n,,{bare}".encode()).decode()
    server = dict(re.findall(r"([a-z])=([^,]*)", first))
    if not server.get("r", "").startswith(nonce):
        raise LayerFailed("the broker's answer has another nonce than the request", "a broker that speaks SCRAM")
    salted = hashlib.pbkdf2_hmac(digest, password.encode(), base64.b64decode(server["s"]), int(server["i"]))
    final = f"c=biws,r={server['r']}"
    signed = f"{bare},{first},{final}".encode()
    key = hmac.digest(salted, b"Client Key", digest)
    proof = hmac.digest(hashlib.new(digest, key).digest(), signed, digest)
    masked = base64.b64encode(bytes(a ^ b for a, b in zip(key, proof, strict=True))).decode()
    last = _authenticate(link, f"{final},p={masked}".encode()).decode()
    expected = hmac.digest(hmac.digest(salted, b"Server Key", digest), signed, digest)
    if not hmac.compare_digest(last, f"v={base64.b64encode(expected).decode()}"):
        raise LayerFailed("the broker could not prove that it knows the password", "a broker that you trust")


def _authenticate(link: socket.socket, token: bytes) -> bytes:
    answer = _request(link, SASL_AUTHENTICATE, 0, struct.pack(">i", len(token)) + token)
    error, length = struct.unpack_from(">hh", answer)
    message = answer[4 : 4 + max(length, 0)].decode("utf-8", "replace")
    if error != OK:
        why = message or ("authentication failed" if error == AUTHENTICATION_FAILED else f"error {error}")
        raise LayerFailed(why, "kafka.sasl_username and sasl_password_file as they are set on the broker")
    (size,) = struct.unpack_from(">i", answer, 4 + max(length, 0))
    return answer[8 + max(length, 0) :][: max(size, 0)]


def _request(link: socket.socket, key: int, version: int, body: bytes) -> bytes:
    """Sends one request. Returns the answer without its length and correlation id. Raises NotKafka, OSError."""
    head = struct.pack(">hhi", key, version, 1) + _text(CLIENT)
    link.sendall(struct.pack(">i", len(head) + len(body)) + head + body)
    first = _exactly(link, 8)
    length, correlation = struct.unpack(">ii", first)
    if correlation != 1 or not 4 <= length <= MAX_ANSWER_BYTES:
        raise NotKafka(first)
    return _exactly(link, length - 4)


def _exactly(link: socket.socket, n: int) -> bytes:
    received = b""
    while len(received) < n:
        chunk = link.recv(n - len(received))
        if not chunk:
            raise NotKafka(received)
        received += chunk
    return received


def _text(text: str) -> bytes:
    return struct.pack(">h", len(text.encode())) + text.encode()


def _texts(data: bytes) -> list[str]:
    (n,) = struct.unpack_from(">i", data)
    texts, at = [], 4
    for _ in range(n):
        (length,) = struct.unpack_from(">h", data, at)
        texts.append(data[at + 2 : at + 2 + length].decode("utf-8", "replace"))
        at += 2 + length
    return texts


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]
