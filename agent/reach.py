"""Can the traffic be reached? Looked at layer by layer, because the Kafka client has one sentence for every fault.

Wrong password, wrong authority, TLS on a plain port, closed port and unknown host all end in its "Unable to bootstrap";
so name and TCP are tried with plain sockets before the client is asked.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass

from agent.kafka import BOOTSTRAP_S, Client, ClientError, Config, in_words
from agent.topic import Place


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer looked at. wanted: what would be right, or what to do; ok with both told reads as a report."""

    layer: str
    ok: bool
    seen: str
    wanted: str


def probe_topic(config: Config) -> list[Layer]:
    """name, tcp, bootstrap, topic, group: in this order, ending with the first that is not ok.

    Joins no group, reads no record, commits nothing. Takes at most about BOOTSTRAP_S a layer and server.
    """
    found = [_any_server(config, "name", _resolve, "a name that resolves")]
    if found[-1].ok:
        found.append(_any_server(config, "tcp", _connect, "an open port"))
    return found + _by_client(config) if found[-1].ok else found


def _any_server(config: Config, layer: str, attempt: Callable[[str, int], str], wanted: str) -> Layer:
    """One server that works is enough: the client learns the others from it."""
    seen: list[str] = []
    ok = False
    for server in config.bootstrap_servers:
        host, _, port = server.rpartition(":")
        try:
            seen.append(f"{server}: {attempt(host.strip('[]'), int(port))}")
            ok = True
        except (OSError, ValueError) as error:
            seen.append(f"{server}: {in_words(error)}")
    return Layer(layer, ok, "; ".join(seen), f"{wanted} (host:port) in kafka.bootstrap_servers")


def _resolve(host: str, port: int) -> str:
    return str(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0])


def _connect(host: str, port: int) -> str:
    with socket.create_connection((host, port), timeout=BOOTSTRAP_S):
        return "connected"


def _by_client(config: Config) -> list[Layer]:
    # Subscribing joins nothing before the first poll, and unlike assigning asks for no topic.
    asking = config.model_copy(update={"mode": "group", "group_instance_id": None})
    wanted = "a Kafka broker that speaks kafka.security_protocol there"
    try:
        client = Client(asking, _ignore)
    except (ClientError, OSError, ValueError) as error:
        return [Layer("bootstrap", False, in_words(error), wanted)]
    try:
        found = [Layer("bootstrap", True, "answered", wanted), _topic(client, config.topic)]
        return [*found, _group(client, config)] if found[-1].ok and config.group_id else found
    finally:
        client.close()


def _ignore(what: str, place: Place) -> None:
    """Takes the place of a listener: nothing is polled, so nothing moves."""


def _topic(client: Client, topic: str) -> Layer:
    try:
        names = client.topic_names()
    except ClientError as error:
        return Layer("topic", False, in_words(error), f"the right to see topic {topic}")
    seen = f"{topic} is there" if topic in names else f"{len(names)} topics, {topic} is not among them"
    return Layer("topic", topic in names, seen, f"topic {topic}, and the right to describe it")


def _group(client: Client, config: Config) -> Layer:
    wanted = f"the right to read group {config.group_id}"
    try:
        committed = client.committed((config.topic, 0))
    except ClientError as error:
        return Layer("group", False, in_words(error), wanted)
    return Layer(
        "group", True, f"committed in partition 0: {'nothing yet' if committed is None else committed}", wanted
    )
