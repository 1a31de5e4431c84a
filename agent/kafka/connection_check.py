"""Can the traffic be reached? Looked at layer by layer, because the Kafka client has one sentence for every fault.

name, tcp, tls, api, sasl, then what only a client can say: bootstrap, topic, group. The first that fails is the last.
"""

from __future__ import annotations

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
from agent.kafka.handshake import Failed, NotKafka

ANSWER_S = 3.0
TRY_S = 0.7
WANTED_PROTOCOL = "kafka.security_protocol and port as the broker's listener has them"
Attempt = Callable[[Config, str, int], str]


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer looked at. wanted: what would be right, or what to do; ok with both told reads as a report."""

    layer: str
    ok: bool
    seen: str
    wanted: str


def check_connection(config: Config) -> list[Layer]:
    """Each layer that this configuration has, in order, ending with the first that is not ok.

    Joins no group, keeps no record, commits nothing. Takes at most a few seconds a layer and server.
    """
    found: list[Layer] = []
    for layer in _layers(config):
        found.append(layer)
        if not layer.ok:
            break
    return found


def _layers(config: Config) -> Iterator[Layer]:
    yield _any_server(config, "name", _resolve, "a name that resolves (host:port) in kafka.bootstrap_servers")
    yield _any_server(config, "tcp", _connect, "an open port (host:port) in kafka.bootstrap_servers")
    if config.uses_tls:
        yield _any_server(config, "tls", _tls, "a certificate that this configuration trusts")
    yield _any_server(config, "api", _api, "a Kafka broker")
    if config.uses_sasl:
        yield _any_server(config, "sasl", _sasl, "a user that may log in")
    yield from _by_client(config)


def _any_server(config: Config, layer: str, attempt: Attempt, wanted: str) -> Layer:
    """One server that works is enough: the client learns the others from it."""
    seen: list[str] = []
    ok = False
    for server in config.bootstrap_servers:
        host, _, port = server.rpartition(":")
        try:
            seen.append(f"{server}: {attempt(config, host.strip('[]'), int(port))}")
            ok = True
        except Failed as failed:
            seen.append(f"{server}: {failed.seen}")
            wanted = wanted if ok else failed.wanted
        except (OSError, ValueError, KeyError, struct.error) as error:  # the last three: an answer without sense
            seen.append(f"{server}: {error_text(error)}")
    return Layer(layer, ok, "; ".join(seen), wanted)


def _resolve(config: Config, host: str, port: int) -> str:  # noqa: ARG001 - one shape for every layer
    return str(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0])


def _connect(config: Config, host: str, port: int) -> str:  # noqa: ARG001 - one shape for every layer
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
            raise handshake.explained(error, host) from None
        except Failed as failed:
            if failed.seen.startswith("no TLS") and _speaks_plainly(host, port):
                raise Failed("a Kafka broker without TLS answers on that port", WANTED_PROTOCOL) from None
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
            known = handshake.api_versions(link)
            if not config.uses_sasl and not handshake.answers_strangers(link):
                raise Failed(
                    "the listener asks for a login", "kafka.security_protocol SASL_..., with user and password"
                )
    except NotKafka as answer:
        raise _no_broker(config, host, port, answer.first) from None
    except TimeoutError:
        seems = "an HTTP server" if handshake.speaks_http(host, port, ANSWER_S) else "it accepts and never answers"
        raise Failed(f"no Kafka broker: {seems}", "a Kafka broker's port in kafka.bootstrap_servers") from None
    return f"a Kafka broker that knows {len(known)} requests"


def _no_broker(config: Config, host: str, port: int, first: bytes) -> Failed:
    seems = handshake.looks_like(first)
    if not config.uses_tls and seems in ("a TLS port", "hung up") and _speaks_tls(host, port):
        return Failed("the port speaks TLS", WANTED_PROTOCOL)
    return Failed(f"no Kafka broker: {seems}", "a Kafka broker's port in kafka.bootstrap_servers")


def _speaks_tls(host: str, port: int) -> bool:
    """Whoever signed its certificate: only whether it has one."""
    server = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    trusting = Config(bootstrap_servers=(server,), topic="any", security_protocol="SSL", ssl_check_hostname=False)
    try:
        with handshake.connected(host, port, ANSWER_S) as link, handshake.secured(link, host, trusting):
            return True
    except Failed as failed:
        return not failed.seen.startswith("no TLS")
    except OSError:
        return False


def _sasl(config: Config, host: str, port: int) -> str:
    with _linked(config, host, port) as link:
        _log_in(config, link)
    return f"logged in as {config.sasl_username} by {config.sasl_mechanism}"


def _log_in(config: Config, link: socket.socket) -> None:
    try:
        handshake.log_in(link, config.sasl_mechanism or "", config.sasl_username or "", password(config))
    except NotKafka:
        raise Failed("the broker hung up during the login", "a user that may log in; see the broker's log") from None


def _by_client(config: Config) -> Iterator[Layer]:
    # Subscribing joins nothing before the first poll, and unlike assigning asks for no topic.
    update = {"mode": "group", "group_id": config.group_id or "none", "group_instance_id": None}
    wanted = "addresses that the broker advertises (advertised.listeners) and that are reachable from here"
    try:
        client = Client(config.model_copy(update=update), _ignore)
    except (ClientError, OSError, ValueError) as error:
        yield Layer("bootstrap", False, error_text(error), wanted)
        return
    try:
        yield Layer("bootstrap", True, "answered", wanted)
        yield _topic(client, config)
        if config.group_id:
            yield _group(client, config)
    finally:
        client.close()


def _ignore(what: str, place: TopicPartition) -> None:
    """Takes the place of a listener: nothing is polled, so nothing moves."""


def _topic(client: Client, config: Config) -> Layer:
    wanted = f"topic {config.topic}, and the rights to describe and to read it"
    try:
        names = client.topic_names()
        if config.topic not in names:
            return Layer("topic", False, f"{len(names)} topics, {config.topic} is not among them", wanted)
        _try_reading(config)
    except ClientError as error:
        return Layer("topic", False, error_text(error), wanted)
    return Layer("topic", True, f"{config.topic} is there, and may be read", wanted)


def _try_reading(config: Config) -> None:
    """One fetch from its end, without the group: its rights are another layer."""
    alone = {"mode": "assign", "group_id": None, "auto_offset_reset": "latest"}
    client = Client(config.model_copy(update=alone), _ignore)
    try:
        client.poll(TRY_S)
    finally:
        client.close()


def _group(client: Client, config: Config) -> Layer:
    wanted = f"the right to read group {config.group_id}"
    try:
        committed = client.committed((config.topic, 0))
    except ClientError as error:
        return Layer("group", False, error_text(error), wanted)
    told = f"committed in partition 0: {'nothing yet' if committed is None else committed}"
    refused = _any_server(config, "group", partial(_may_join, config.group_id or ""), wanted)
    return refused if not refused.ok else Layer("group", True, told, wanted)


def _may_join(group: str, config: Config, host: str, port: int) -> str:
    with _linked(config, host, port) as link:
        if config.uses_sasl:
            _log_in(config, link)
        try:
            allowed = handshake.may_read_group(link, group)
        except (NotKafka, TimeoutError):
            return "not told"  # a broker that no longer takes this old question: the commit was readable, at least
    if not allowed:
        raise Failed(
            f"GroupAuthorizationFailed: {group} may be looked at, not read", f"the right to read group {group}"
        )
    return "may be a member"
