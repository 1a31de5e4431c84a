"""Can the traffic topic be read? Checked layer by layer, because the Kafka client reports every fault the same way.

name, tcp, tls, api, sasl, then what only a client can find out: bootstrap, topic, group. The first layer that fails is
the last one checked. `gapwatch doctor` prints the result; a layer that is added here appears there by itself.
"""

from __future__ import annotations

import os
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial

from agent.kafka import handshake
from agent.kafka.client import Client, ClientError, error_text
from agent.kafka.config import BOOTSTRAP_S, Config, password
from agent.kafka.contract import TopicPartition
from agent.kafka.handshake import LayerFailed, NotKafka

ANSWER_S = 3.0
TRY_READING_S = 0.7
WANTED_PROTOCOL = "kafka.security_protocol and port as they are set on the broker's listener"
Attempt = Callable[[Config, str, int], str]


@dataclass(frozen=True, slots=True)
class LayerCheck:
    """The result for one layer. observed: what came back; wanted: what would be right, or what to do."""

    layer: str
    ok: bool
    observed: str
    wanted: str


def check_connection(config: Config) -> list[LayerCheck]:
    """Each layer that this configuration has, in order, ending with the first that is not ok.

    Joins no group, keeps no record, commits nothing. Takes at most a few seconds a layer and server.
    """
    checks: list[LayerCheck] = []
    for check in _layers(config):
        checks.append(check)
        if not check.ok:
            break
    return checks


def _layers(config: Config) -> Iterator[LayerCheck]:
    yield _any_server(config, "name", _resolve, "a name that resolves (host:port) in kafka.bootstrap_servers")
    yield _any_server(config, "tcp", _connect, "an open port (host:port) in kafka.bootstrap_servers")
    if config.uses_tls:
        yield _any_server(config, "tls", _tls, "a certificate that this configuration trusts")
    yield _any_server(config, "api", _api, "a Kafka broker")
    if config.uses_sasl:
        yield _any_server(config, "sasl", _sasl, "a user that may log in")
    yield from _by_client(config)


def _any_server(config: Config, layer: str, attempt: Attempt, wanted: str) -> LayerCheck:
    """One bootstrap server that works is enough: the client learns the others from it."""
    observed: list[str] = []
    ok = False
    for server in config.bootstrap_servers:
        host, _, port = server.rpartition(":")
        try:
            observed.append(f"{server}: {attempt(config, host.strip('[]'), int(port))}")
            ok = True
        except LayerFailed as failed:
            observed.append(f"{server}: {failed.observed}")
            wanted = wanted if ok else failed.wanted
        except (OSError, ValueError, KeyError, struct.error) as error:  # the last three: a malformed answer
            observed.append(f"{server}: {error_text(error)}")
    return LayerCheck(layer, ok, "; ".join(observed), wanted)


def _resolve(config: Config, host: str, port: int) -> str:  # noqa: ARG001 - the same signature for every layer
    return str(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0])


def _connect(config: Config, host: str, port: int) -> str:  # noqa: ARG001 - the same signature for every layer
    with handshake.connected(host, port, BOOTSTRAP_S):
        return "connected"


def _tls(config: Config, host: str, port: int) -> str:
    with handshake.connected(host, port, ANSWER_S) as link:
        try:
            with handshake.secured(link, host, config) as secure:
                version = secure.version()
                # A server that refuses our certificate says so only at the first read (TLS 1.3).
                with suppress(NotKafka, TimeoutError, ConnectionError, ssl.SSLEOFError):
                    handshake.api_versions(secure)
                return str(version)
        except OSError as error:
            raise handshake.tls_failure(error, host) from None
        except LayerFailed as failed:
            if failed.observed.startswith("no TLS") and _speaks_plainly(host, port):
                raise LayerFailed("a Kafka broker without TLS answers on that port", WANTED_PROTOCOL) from None
            raise


def _speaks_plainly(host: str, port: int) -> bool:
    try:
        with handshake.connected(host, port, ANSWER_S) as link:
            return bool(handshake.api_versions(link))
    except (NotKafka, OSError):
        return False


@contextmanager
def _linked(config: Config, host: str, port: int) -> Iterator[socket.socket]:
    with handshake.connected(host, port, ANSWER_S) as link:
        if not config.uses_tls:
            yield link
            return
        with handshake.secured(link, host, config) as secure:
            yield secure


def _api(config: Config, host: str, port: int) -> str:
    try:
        with _linked(config, host, port) as link:
            versions = handshake.api_versions(link)
            if not config.uses_sasl and not handshake.accepts_without_login(link):
                raise LayerFailed(
                    "the listener requires a login", "kafka.security_protocol SASL_..., with user and password"
                )
    except NotKafka as answer:
        raise _no_broker(config, host, port, answer.first) from None
    except TimeoutError:
        seems = (
            "an HTTP server"
            if handshake.speaks_http(host, port, ANSWER_S)
            else "it accepts connections and never answers"
        )
        raise LayerFailed(f"no Kafka broker: {seems}", "a Kafka broker's port in kafka.bootstrap_servers") from None
    return f"a Kafka broker with {len(versions)} kinds of requests"


def _no_broker(config: Config, host: str, port: int, first: bytes) -> LayerFailed:
    seems = handshake.looks_like(first)
    if not config.uses_tls and seems in ("a TLS port", "it closed the connection") and _speaks_tls(host, port):
        return LayerFailed("the port speaks TLS", WANTED_PROTOCOL)
    return LayerFailed(f"no Kafka broker: {seems}", "a Kafka broker's port in kafka.bootstrap_servers")


def _speaks_tls(host: str, port: int) -> bool:
    """Whatever authority signed its certificate: only whether it shows one."""
    server = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    trusting = Config(bootstrap_servers=(server,), topic="any", security_protocol="SSL", ssl_check_hostname=False)
    try:
        with handshake.connected(host, port, ANSWER_S) as link, handshake.secured(link, host, trusting):
            return True
    except LayerFailed as failed:
        return not failed.observed.startswith("no TLS")
    except OSError:
        return False


def _sasl(config: Config, host: str, port: int) -> str:
    with _linked(config, host, port) as link:
        _log_in(config, link)
    return f"logged in as {config.sasl_username} by {config.sasl_mechanism}"


def _log_in(config: Config, link: socket.socket) -> None:
    try:
        secret = password(config)
    except (OSError, UnicodeDecodeError) as error:  # neither path nor content: the path may be the password itself
        actual = "bytes that are no text" if isinstance(error, UnicodeDecodeError) else error.strerror
        wanted = f"kafka.sasl_password_file that user {os.getuid()} may read"
        raise LayerFailed(f"the password file: {actual}", wanted) from None
    try:
        handshake.log_in(link, config.sasl_mechanism or "", config.sasl_username or "", secret)
    except NotKafka:
        raise LayerFailed(
            "the broker closed the connection during the login", "a user that may log in; see the broker's log"
        ) from None


def _by_client(config: Config) -> Iterator[LayerCheck]:
    # Subscribing joins no group before the first poll, and unlike assigning does not ask for the topic.
    update = {"mode": "group", "group_id": config.group_id or "none", "group_instance_id": None}
    wanted = "addresses that the broker advertises (advertised.listeners) and that are reachable from here"
    try:
        client = Client(config.model_copy(update=update), _ignore_change)
    except (ClientError, OSError, ValueError) as error:
        yield LayerCheck("bootstrap", False, error_text(error), wanted)
        return
    try:
        yield LayerCheck("bootstrap", True, "answered", wanted)
        yield _topic(client, config)
        if config.group_id:
            yield _group(client, config)
    finally:
        client.close()


def _ignore_change(change: str, partition: TopicPartition) -> None:
    """In place of a listener: no group is joined, so no partition changes hands."""


def _topic(client: Client, config: Config) -> LayerCheck:
    wanted = f"topic {config.topic}, and the rights to describe and to read it"
    try:
        names = client.topic_names()
        if config.topic not in names:
            return LayerCheck("topic", False, f"{len(names)} topics, {config.topic} is not among them", wanted)
        _try_reading(config)
    except ClientError as error:
        return LayerCheck("topic", False, error_text(error), wanted)
    return LayerCheck("topic", True, f"{config.topic} exists, and may be read", wanted)


def _try_reading(config: Config) -> None:
    """One fetch from the topic's end, without the group: the group's rights are another layer."""
    alone = {"mode": "assign", "group_id": None, "auto_offset_reset": "latest"}
    client = Client(config.model_copy(update=alone), _ignore_change)
    try:
        client.poll(TRY_READING_S)
    finally:
        client.close()


def _group(client: Client, config: Config) -> LayerCheck:
    wanted = f"the right to read group {config.group_id}"
    try:
        committed = client.committed((config.topic, 0))
    except ClientError as error:
        return LayerCheck("group", False, error_text(error), wanted)
    observed = f"committed in partition 0: {'nothing yet' if committed is None else committed}"
    refused = _any_server(config, "group", partial(_may_join, config.group_id or ""), wanted)
    return refused if not refused.ok else LayerCheck("group", True, observed, wanted)


def _may_join(group: str, config: Config, host: str, port: int) -> str:
    with _linked(config, host, port) as link:
        if config.uses_sasl:
            _log_in(config, link)
        try:
            allowed = handshake.may_read_group(link, group)
        except (NotKafka, TimeoutError):
            return "not answered"  # by a broker without this old request; the commit, at least, was readable
    if not allowed:
        raise LayerFailed(
            f"GroupAuthorizationFailed: {group} may be described, but not read", f"the right to read group {group}"
        )
    return "may be a member"
