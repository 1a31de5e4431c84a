"""TLS, client certificates and logins against a real Kafka; what doctor reports of each fault; and secrets."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from agent.demo.broker import free_port
from agent.kafka.client import Client, publish
from agent.kafka.config import Config, Password, connection_options
from agent.kafka.connection_check import LayerCheck, _log_in, check_connection
from agent.kafka.consumer import Consumer
from agent.kafka.contract import Outgoing
from agent.kafka.handshake import LayerFailed
from tests.certificates import Authority
from tests.conftest import need_apache
from tests.kafka_brokers import LEFT_CONNECTING, config_for
from tests.secure_kafka import SECRET, TOPIC, SecureKafka, secure_kafka

pytestmark = [LEFT_CONNECTING, pytest.mark.usefixtures("collected")]
WITHIN_S = 40.0


def own_certificate(folder: Path) -> dict[str, Any]:
    """Settings of a client certificate whose authority the broker does not know."""
    cert, key = Authority(folder / "own", "own").sign("client")
    return {"ssl_certfile": cert, "ssl_keyfile": key}


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    need_apache()
    with secure_kafka(tmp_path_factory.mktemp("secure")) as there:
        yield there


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the loopback an answer takes milliseconds."""
    monkeypatch.setattr("agent.kafka.connection_check.ANSWER_S", 1.5)
    monkeypatch.setattr("agent.kafka.connection_check.TRY_READING_S", 0.3)


def last(config: Config) -> LayerCheck:
    """The layer where it ends; every one before it must be right."""
    checks = check_connection(config)
    assert all(check.ok for check in checks[:-1]), checks
    return checks[-1]


@pytest.mark.real_kafka
@pytest.mark.parametrize(
    ("listener", "mechanism"),
    [
        ("LOGIN", "PLAIN"),
        ("LOGIN", "SCRAM-SHA-256"),
        ("TLS", ""),
        ("BOTH", "SCRAM-SHA-512"),
        ("BOTH", "PLAIN"),
        ("MUTUAL", ""),
    ],
)
def test_every_kind_of_listener_can_be_read_and_doctor_finds_nothing(
    kafka: SecureKafka, listener: str, mechanism: str
) -> None:
    name = f"{listener}-{mechanism}"
    publish(kafka.plain, TOPIC, [Outgoing(None, name.encode())])
    config = kafka.config(listener, mechanism=mechanism)
    consumer = Consumer(config)
    consumer.open()
    assert name.encode() in values(consumer, lambda got: name.encode() in got)
    consumer.close()
    checks = check_connection(config)
    assert all(check.ok for check in checks), checks
    without = {"LOGIN": {"tls"}, "TLS": {"sasl"}, "MUTUAL": {"sasl"}}.get(listener, set())
    every = ("name", "tcp", "tls", "api", "sasl", "bootstrap", "topic", "group")
    assert [check.layer for check in checks] == [layer for layer in every if layer not in without]


Wrong = Callable[[SecureKafka], Config]
CASES: list[tuple[str, Wrong, str, str, str]] = [
    (
        "a closed port",
        lambda k: k.config("PLAIN", port=free_port()),
        "tcp",
        "ConnectionRefused",
        "an open port",
    ),
    (
        "TLS asked of a plain port",
        lambda k: k.config("TLS", port=k.ports["PLAIN"]),
        "tls",
        "a Kafka broker without TLS",
        "kafka.security_protocol",
    ),
    (
        "plain words to a TLS port",
        lambda k: k.config("PLAIN", port=k.ports["TLS"]),
        "api",
        "the port speaks TLS",
        "kafka.security_protocol",
    ),
    (
        "no authority named",
        lambda k: k.config("TLS", ssl_cafile=None),
        "tls",
        "self-signed certificate in certificate chain",
        "kafka.ssl_cafile",
    ),
    (
        "another authority",
        lambda k: k.config("TLS", ssl_cafile=Authority(k.folder / "other", "other").cert),
        "tls",
        "unable to get local issuer|self-signed",
        "kafka.ssl_cafile",
    ),
    (
        "no client certificate where one is asked for",
        lambda k: k.config("MUTUAL", ssl_certfile=None, ssl_keyfile=None),
        "tls",
        "CERTIFICATE|certificate",
        "kafka.ssl_certfile",
    ),
    (
        "a client certificate of an authority that the broker does not know",
        lambda k: k.config("MUTUAL", **own_certificate(k.folder)),
        "tls",
        "CERTIFICATE|UNKNOWN_CA|certificate",
        "kafka.ssl_certfile",
    ),
    (
        "no login where one is asked for",
        lambda k: k.config("PLAIN", port=k.ports["LOGIN"]),
        "api",
        "requires a login",
        "SASL_",
    ),
    (
        "a login where none is taken",
        lambda k: k.config("LOGIN", port=k.ports["PLAIN"]),
        "sasl",
        "accepts no login",
        "without SASL_",
    ),
    (
        "a wrong password, plain",
        lambda k: k.config("LOGIN", sasl_password_file=k.password("wrong")),
        "sasl",
        "Invalid username or password",
        "sasl_password_file",
    ),
    (
        "a wrong password, scram",
        lambda k: k.config("BOTH", mechanism="SCRAM-SHA-512", sasl_password_file=k.password("wrong")),
        "sasl",
        "SCRAM",
        "sasl_password_file",
    ),
    (
        "an unknown user",
        lambda k: k.config("LOGIN", user="nobody"),
        "sasl",
        "Invalid username or password",
        "kafka.sasl_username",
    ),
    (
        "a missing topic",
        lambda k: k.config("PLAIN", topic="no-such-topic"),
        "topic",
        "no-such-topic is not among them",
        "topic no-such-topic",
    ),
    (
        "a topic that may be observed and not read",
        lambda k: k.config("LOGIN", user="peeper"),
        "topic",
        "TopicAuthorizationFailed",
        "to read it",
    ),
    (
        "a group that may not be looked at",
        lambda k: k.config("LOGIN", user="loner"),
        "group",
        "GroupAuthorizationFailed",
        "read group g",
    ),
    (
        "a group that may be looked at and not read",
        lambda k: k.config("LOGIN", user="looker"),
        "group",
        "GroupAuthorizationFailed",
        "read group g",
    ),
]


@pytest.mark.real_kafka
@pytest.mark.parametrize(("wrong", "layer", "observed", "wanted"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_each_fault_has_its_layer_and_its_sentence(
    kafka: SecureKafka, wrong: Wrong, layer: str, observed: str, wanted: str
) -> None:
    check = last(wrong(kafka))
    assert (check.layer, check.ok) == (layer, False), check
    assert any(part in check.observed for part in observed.split("|")), check
    assert wanted in check.wanted, check
    assert SECRET not in check.observed + check.wanted


TOLD_BY_THE_CONSUMER = (
    "TLS asked of a plain port",
    "a wrong password, plain",
    "a topic that may be observed and not read",
    "a group that may not be looked at",
    "a group that may be looked at and not read",
)


@pytest.mark.real_kafka
@pytest.mark.parametrize(
    ("wrong", "layer", "observed", "wanted"),
    [c[1:] for c in CASES if c[0] in TOLD_BY_THE_CONSUMER],
    ids=TOLD_BY_THE_CONSUMER,
)
def test_the_consumer_tells_each_fault_in_these_words_and_tries_again_with_back_off(
    kafka: SecureKafka, wrong: Wrong, layer: str, observed: str, wanted: str
) -> None:
    consumer = Consumer(wrong(kafka))
    with capture_logs() as lines:
        consumer.open()
        give_up = time.monotonic() + WITHIN_S
        while not consumer.status.why.startswith(f"{layer}: saw "):
            assert time.monotonic() < give_up, consumer.status
            assert consumer.poll() == []
        until = time.monotonic() + 5.0
        while time.monotonic() < until:
            assert consumer.poll() == []
            assert not consumer.status.up, "nor between two tries"
    assert any(part in consumer.status.why for part in observed.split("|")), consumer.status
    assert wanted in consumer.status.why
    assert consumer.rebuilds <= 6, "without back-off it was eight a second"
    events = [line["event"] for line in lines]
    assert events == ["part_not_ok"] * len(events), events
    assert len(events) <= 2, "what the client says, and what the check says"
    consumer.close(WITHIN_S)


def test_a_password_file_that_cannot_be_read_is_told_without_its_path(tmp_path: Path) -> None:
    """Where the password itself stands in place of the path, the path is the secret."""
    told = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN", "sasl_username": "reader"}
    missing = config_for("127.0.0.1:9", "any", **told, sasl_password_file=tmp_path / SECRET)
    here, there = socket.socketpair()
    with here, there, pytest.raises(LayerFailed) as failed:
        _log_in(missing, here)
    assert failed.value.observed == "the password file: No such file or directory"
    assert "kafka.sasl_password_file that user" in failed.value.wanted


def test_an_http_server_and_a_silent_port_are_no_brokers() -> None:
    with _http_server() as port:
        check = last(config_for(f"127.0.0.1:{port}", "any"))
        assert (check.layer, "an HTTP server" in check.observed) == ("api", True), check
        check = last(config_for(f"127.0.0.1:{port}", "any", security_protocol="SSL"))
        assert (check.layer, "no TLS on that port" in check.observed) == ("tls", True), check
    with socket.create_server(("127.0.0.1", 0)) as server:
        check = last(config_for(f"127.0.0.1:{server.getsockname()[1]}", "any"))
        assert (check.layer, "never answers" in check.observed) == ("api", True), check


@pytest.mark.parametrize(
    ("signed", "ok", "observed", "wanted"),
    [
        ({"days": -1}, False, "expired", "new certificate"),
        ({"hosts": "DNS:other.example"}, False, "not valid for 'localhost'", "ssl_check_hostname"),
        ({"hosts": "DNS:other.example", "check": False}, True, "TLSv1", ""),
        ({}, True, "TLSv1", ""),
    ],
    ids=["expired", "another host's name", "another host's name, taken on purpose", "a good one"],
)
def test_each_fault_of_a_certificate_has_its_sentence(
    tmp_path: Path, signed: dict[str, Any], ok: bool, observed: str, wanted: str
) -> None:
    authority = Authority(tmp_path)
    check = signed.pop("check", True)
    with _tls_server(*authority.sign("server", **signed)) as port:
        told = {"security_protocol": "SSL", "ssl_cafile": authority.cert, "ssl_check_hostname": check}
        check = next(
            layer for layer in check_connection(config_for(f"localhost:{port}", "any", **told)) if layer.layer == "tls"
        )
    assert check.ok is ok
    assert observed in check.observed, check
    assert wanted in check.wanted


def test_files_that_do_not_fit_are_a_fault_of_the_configuration(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert, _ = authority.sign("one")
    _, key = authority.sign("other")
    with _tls_server(*authority.sign("server")) as port:
        told = {"security_protocol": "SSL", "ssl_cafile": authority.cert, "ssl_certfile": cert, "ssl_keyfile": key}
        check = last(config_for(f"localhost:{port}", "any", **told))
    assert (check.layer, "PEM files" in check.wanted) == ("tls", True), check


@pytest.mark.real_kafka
@pytest.mark.parametrize(
    ("mechanism", "password"), [("PLAIN", SECRET), ("PLAIN", "wrong-4711"), ("SCRAM-SHA-512", SECRET)]
)
def test_no_password_in_any_log_exception_or_repr(
    kafka: SecureKafka, caplog: pytest.LogCaptureFixture, mechanism: str, password: str
) -> None:
    """At DEBUG on every logger by name, as a user's logging configuration may set them."""
    config = kafka.config("LOGIN", mechanism=mechanism, sasl_password_file=kafka.password(password))
    shown = [repr(config), str(config), config.model_dump_json(), repr(connection_options(config))]
    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] == "kafka"]
    with caplog.at_level(logging.DEBUG), capture_logs() as own_log:
        for name in names:
            caplog.set_level(logging.DEBUG, name)
        shown += [str(layer) for layer in check_connection(config)]
        shown.append(_opened_or_refused(config))
    assert password not in caplog.text
    assert password not in str(own_log)
    assert password not in "".join(shown)
    assert password == connection_options(config)["sasl_plain_password"]


def test_a_password_shows_nowhere_but_where_it_is_asked_for() -> None:
    secret = Password(SECRET)
    assert repr({"p": secret, "l": [secret]}) == "{'p': '***', 'l': ['***']}"
    assert secret.encode() == SECRET.encode()


def _opened_or_refused(config: Config) -> str:
    """All that a client, or the exception it ends in, shows of itself; locals too, as some tracebacks print them."""
    try:
        client = Client(config, lambda *_: None)
    except Exception as error:
        return "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    shown = repr(vars(client))
    client.close()
    return shown


def values(consumer: Consumer, enough: Callable[[set[bytes]], bool]) -> set[bytes]:
    received: set[bytes] = set()
    give_up = time.monotonic() + WITHIN_S
    while not enough(received):
        assert time.monotonic() < give_up, consumer.status
        received |= {message.value or b"" for got in consumer.poll() for message in got.messages}
    return received


@contextmanager
def _http_server() -> Iterator[int]:
    class Quiet(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Quiet)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def _tls_server(cert: Path, key: Path) -> Iterator[int]:
    """Shakes hands and hangs up."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        stop = threading.Event()

        def serve() -> None:
            while not stop.is_set():
                try:
                    link, _ = server.accept()
                except TimeoutError:
                    continue
                with link:
                    try:
                        link.settimeout(5.0)
                        context.wrap_socket(link, server_side=True).close()
                    except OSError:
                        continue

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield int(server.getsockname()[1])
        finally:
            stop.set()
            thread.join()
