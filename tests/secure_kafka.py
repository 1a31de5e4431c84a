"""One real Kafka with a listener of each kind: plain, with login, with TLS, with both, and with client certificates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kafka import KafkaAdminClient
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ResourcePattern,
    ResourceType,
    UserScramCredentialUpsertion,
)

from agent.demo.broker import free_port, start_broker
from agent.kafka.client import ensure_topic
from agent.kafka.config import Config
from tests.certificates import Authority
from tests.kafka_brokers import config_for

SECRET = "open-sesame-4711"
TOPIC = "guarded"
PROTOCOLS = {"PLAIN": "PLAINTEXT", "LOGIN": "SASL_PLAINTEXT", "TLS": "SSL", "BOTH": "SASL_SSL", "MUTUAL": "SSL"}
# What each user may do with the topic, and with any group.
USERS = {
    "reader": ("READ", "READ"),
    "peeper": ("DESCRIBE", "READ"),
    "loner": ("READ", None),
    "looker": ("READ", "DESCRIBE"),
}


@dataclass(frozen=True)
class SecureKafka:
    """ports: by listener; files in folder: password, the authority's certificate, a client's certificate and key."""

    folder: Path
    authority: Authority
    ports: dict[str, int]

    @property
    def plain(self) -> str:
        return f"127.0.0.1:{self.ports['PLAIN']}"

    def config(
        self, listener: str, user: str = "reader", mechanism: str = "PLAIN", port: int = 0, **changes: Any
    ) -> Config:
        """What a client of this listener says when everything is right, but for the changes. port: another one's."""
        told: dict[str, Any] = {"security_protocol": PROTOCOLS[listener], "group_id": "g", "topic": TOPIC}
        if listener in ("LOGIN", "BOTH"):
            told |= {"sasl_mechanism": mechanism, "sasl_username": user, "sasl_password_file": self.password(SECRET)}
        if listener in ("TLS", "BOTH", "MUTUAL"):
            told |= {"ssl_cafile": self.authority.cert}
        if listener == "MUTUAL":
            cert, key = self.authority.folder / "client.crt", self.authority.folder / "client.key"
            told |= {"ssl_certfile": cert, "ssl_keyfile": key}
        return config_for(f"localhost:{port or self.ports[listener]}", **(told | changes))

    def password(self, text: str) -> Path:
        file = self.folder / f"password-{len(text)}"
        file.write_text(text + "\n")
        return file


@contextmanager
def secure_kafka(folder: Path) -> Iterator[SecureKafka]:
    authority = Authority(folder / "ca")
    store = authority.bundle(*authority.sign("server"))
    authority.sign("client")
    ports = {listener: free_port() for listener in PROTOCOLS}
    there = SecureKafka(folder, authority, ports)
    with start_broker(folder / "broker", ports["PLAIN"], "apache", _properties(ports, store, authority)):
        ensure_topic(there.plain, TOPIC)
        _let_in(there.plain)
        yield there


def _properties(ports: dict[str, int], store: Path, authority: Authority) -> dict[str, str]:
    controller = free_port()
    outside = ",".join(f"{name}://localhost:{port}" for name, port in ports.items())
    plain = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    users = " ".join(f'user_{user}="{SECRET}"' for user in USERS)
    told = {
        "controller.quorum.bootstrap.servers": f"127.0.0.1:{controller}",
        "listeners": f"{outside},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": outside,
        "listener.security.protocol.map": ",".join(
            f"{name}:{kind}" for name, kind in {"CONTROLLER": "PLAINTEXT", **PROTOCOLS}.items()
        ),
        "inter.broker.listener.name": "PLAIN",
        "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS;User:CN=client",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(store),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(authority.cert),
        "listener.name.mutual.ssl.client.auth": "required",
    }
    for listener in ("login", "both"):
        told[f"listener.name.{listener}.plain.sasl.jaas.config"] = f"{plain} {users};"
        for size in ("256", "512"):
            name = f"listener.name.{listener}.scram-sha-{size}.sasl.jaas.config"
            told[name] = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    return told


def _let_in(bootstrap: str) -> None:
    """Users of SCRAM, and what each user may do."""
    topic, group = ResourcePattern(ResourceType.TOPIC, TOPIC), ResourcePattern(ResourceType.GROUP, "g")
    wanted = [
        (user, right, what)
        for user, rights in USERS.items()
        for right, what in zip(rights, (topic, group), strict=True)
    ]
    rules = [
        ACL(f"User:{user}", "*", ACLOperation[right], ACLPermissionType.ALLOW, what)
        for user, right, what in wanted
        if right
    ]
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        for size in ("256", "512"):
            told = admin.alter_user_scram_credentials(
                [UserScramCredentialUpsertion("reader", f"SCRAM-SHA-{size}", SECRET)]
            )
            assert not any(told.values()), told
        assert not admin.create_acls(rules)["failed"]
    finally:
        admin.close()
