"""A broker's own words: TLS, versions and login by plain bytes, because the Kafka client keeps none of them.

Wrong authority, wrong password, TLS on a plain port and the reverse all end in the client's "Unable to bootstrap".
What is opened here is closed here. Failed says what was seen and what to do.

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
OK, AUTHENTICATION_FAILED, UNSUPPORTED_MECHANISM, ILLEGAL_SASL_STATE = 0, 58, 33, 34
GROUP_AUTHORIZATION_FAILED = 30
CLIENT = "gapwatch-doctor"
LONGEST = 1 << 20  # an answer said to be longer is no answer of a broker
_TLS_ALERT = b"\x15\x03"


class Failed(Exception):
    """A layer that is not as the configuration says. seen: what came back; wanted: what to do."""

    def __init__(self, seen: str, wanted: str) -> None:
        super().__init__(seen)
        self.seen, self.wanted = seen, wanted


class NotKafka(Exception):
    """What answered is no broker's reply. first: its first bytes, b"" when the other side hung up."""

    def __init__(self, first: bytes) -> None:
        super().__init__(first)
        self.first = first


@contextmanager
def connected(host: str, port: int, timeout_s: float) -> Iterator[socket.socket]:
    with socket.create_connection((host, port), timeout=timeout_s) as link:
        yield link


@contextmanager
def secured(link: socket.socket, host: str, config: Config) -> Iterator[ssl.SSLSocket]:
    """TLS over an open connection, as the configuration wants it. Raises Failed."""
    try:
        context = ssl.create_default_context(cafile=str(config.ssl_cafile) if config.ssl_cafile else None)
        context.check_hostname = config.ssl_check_hostname
        if config.ssl_certfile:
            context.load_cert_chain(config.ssl_certfile, config.ssl_keyfile)
    except (OSError, ssl.SSLError) as error:
        raise Failed(_line(error), "PEM files in kafka.ssl_cafile, ssl_certfile and ssl_keyfile that fit") from None
    try:
        secure = context.wrap_socket(link, server_hostname=host)
    except (OSError, ssl.SSLError) as error:
        raise explained(error, host) from None
    with secure:
        yield secure


def explained(error: OSError, host: str) -> Failed:
    """Why a TLS handshake failed, and what to do about it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        said = error.verify_message
        if "expired" in said:
            return Failed(said, "a new certificate on the broker")
        if "not yet valid" in said:
            return Failed(said, "clocks that agree, or a certificate that is valid already")
        if "Hostname mismatch" in said or "IP address mismatch" in said:
            wanted = f"a certificate for {host}, the name in it as bootstrap server, or ssl_check_hostname: false"
            return Failed(said, wanted)
        return Failed(said, "kafka.ssl_cafile with the authority that signed the broker's certificate")
    reason = str(getattr(error, "reason", None) or "")
    if "CERTIFICATE_REQUIRED" in reason or "HANDSHAKE_FAILURE" in reason:
        return Failed(_line(error), "kafka.ssl_certfile and ssl_keyfile: the broker asks clients for a certificate")
    if "UNKNOWN_CA" in reason or "BAD_CERTIFICATE" in reason or "CERTIFICATE_UNKNOWN" in reason:
        return Failed(_line(error), "a certificate in kafka.ssl_certfile of an authority that the broker trusts")
    if "PROTOCOL_VERSION" in reason or "UNSUPPORTED_PROTOCOL" in reason:
        return Failed(_line(error), "TLS 1.2 or newer on the broker")
    return Failed(f"no TLS there: {_line(error)}", "kafka.security_protocol without SSL, or the broker's TLS port")


def api_versions(link: socket.socket) -> dict[int, tuple[int, int]]:
    """API key -> (oldest, newest version) that the broker speaks. Raises NotKafka, OSError."""
    answer = _ask(link, API_VERSIONS, 0, b"")
    error, n = struct.unpack_from(">hi", answer.ljust(6, b"\0"))
    if error != OK or not 0 < n < 1000 or len(answer) != 6 + 6 * n:
        raise NotKafka(answer[:16])
    return {key: (oldest, newest) for key, oldest, newest in struct.iter_unpack(">hhh", answer[6:])}


def answers_strangers(link: socket.socket) -> bool:
    """Does this listener take requests without a login? One that wants SASL hangs up on anything else."""
    try:
        may_read_group(link, CLIENT)
    except TimeoutError:
        return True
    except (NotKafka, OSError, struct.error):
        return False
    return True


def log_in(link: socket.socket, mechanism: str, user: str, password: Password) -> None:
    """SASL as this user. Raises Failed with the broker's own reason."""
    answer = _ask(link, SASL_HANDSHAKE, 1, _text(mechanism))
    (error,) = struct.unpack_from(">h", answer)
    if error == ILLEGAL_SASL_STATE:
        raise Failed("the listener takes no login", "kafka.security_protocol without SASL_, or the broker's SASL port")
    if error != OK:
        offered = ", ".join(_texts(answer[2:])) or "none"
        raise Failed(f"{mechanism} is not offered, these are: {offered}", "one of those as kafka.sasl_mechanism")
    if mechanism == "PLAIN":
        _authenticate(link, f"\0{user}\0{password}".encode())
    else:
        _scram(link, mechanism.removeprefix("SCRAM-").replace("-", "").lower(), user, password)


def may_read_group(link: socket.socket, group: str) -> bool:
    """May this user be a member of the group? Asked by a heartbeat of nobody: rights are looked at before members."""
    answer = _ask(link, HEARTBEAT, 0, _text(group) + struct.pack(">i", 0) + _text("nobody"))
    (error,) = struct.unpack_from(">h", answer)
    return bool(error != GROUP_AUTHORIZATION_FAILED)


def speaks_http(host: str, port: int, timeout_s: float) -> bool:
    """Some HTTP servers wait for the end of a line, which a broker's request may not have."""
    try:
        with connected(host, port, timeout_s) as link:
            link.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return link.recv(5) == b"HTTP/"
    except OSError:
        return False


def looks_like(first: bytes) -> str:
    """What the first bytes of an answer that is no broker's seem to be."""
    if first[:2] == _TLS_ALERT:
        return "a TLS port"
    if first.startswith(b"HTTP/"):
        return "an HTTP server"
    return f"something that answered {first[:8].hex()}" if first else "hung up"


def _scram(link: socket.socket, digest: str, user: str, password: Password) -> None:
    """RFC 5802 without channel binding, as Kafka does it; the server has to prove that it knows the password too."""
    nonce = secrets.token_urlsafe(18)
    bare = f"n={user.replace('=', '=3D').replace(',', '=2C')},r={nonce}"
    first = _authenticate(link, f"n,,{bare}".encode()).decode()
    told = dict(re.findall(r"([a-z])=([^,]*)", first))
    if not told.get("r", "").startswith(nonce):
        raise Failed("the broker answered another question", "a broker that speaks SCRAM")
    salted = hashlib.pbkdf2_hmac(digest, password.encode(), base64.b64decode(told["s"]), int(told["i"]))
    final = f"c=biws,r={told['r']}"
    signed = f"{bare},{first},{final}".encode()
    key = hmac.digest(salted, b"Client Key", digest)
    proof = hmac.digest(hashlib.new(digest, key).digest(), signed, digest)
    masked = base64.b64encode(bytes(a ^ b for a, b in zip(key, proof, strict=True))).decode()
    last = _authenticate(link, f"{final},p={masked}".encode()).decode()
    expected = hmac.digest(hmac.digest(salted, b"Server Key", digest), signed, digest)
    if not hmac.compare_digest(last, f"v={base64.b64encode(expected).decode()}"):
        raise Failed("the broker does not know the password itself", "a broker that you trust")


def _authenticate(link: socket.socket, token: bytes) -> bytes:
    answer = _ask(link, SASL_AUTHENTICATE, 0, struct.pack(">i", len(token)) + token)
    error, length = struct.unpack_from(">hh", answer)
    said = answer[4 : 4 + max(length, 0)].decode("utf-8", "replace")
    if error != OK:
        why = said or ("authentication failed" if error == AUTHENTICATION_FAILED else f"error {error}")
        raise Failed(why, "kafka.sasl_username and sasl_password_file as the broker knows them")
    (size,) = struct.unpack_from(">i", answer, 4 + max(length, 0))
    return answer[8 + max(length, 0) :][: max(size, 0)]


def _ask(link: socket.socket, key: int, version: int, body: bytes) -> bytes:
    """One request, the answer without its length and correlation id. Raises NotKafka, OSError."""
    head = struct.pack(">hhi", key, version, 1) + _text(CLIENT)
    link.sendall(struct.pack(">i", len(head) + len(body)) + head + body)
    first = _exactly(link, 8)
    length, correlation = struct.unpack(">ii", first)
    if correlation != 1 or not 4 <= length <= LONGEST:
        raise NotKafka(first)
    return _exactly(link, length - 4)


def _exactly(link: socket.socket, n: int) -> bytes:
    got = b""
    while len(got) < n:
        more = link.recv(n - len(got))
        if not more:
            raise NotKafka(got)
        got += more
    return got


def _text(text: str) -> bytes:
    return struct.pack(">h", len(text.encode())) + text.encode()


def _texts(data: bytes) -> list[str]:
    (n,) = struct.unpack_from(">i", data)
    found, at = [], 4
    for _ in range(n):
        (length,) = struct.unpack_from(">h", data, at)
        found.append(data[at + 2 : at + 2 + length].decode("utf-8", "replace"))
        at += 2 + length
    return found


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]
