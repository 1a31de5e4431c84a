"""Where the traffic is and how to log in there: the section ``kafka`` of the configuration, and a client's options.

A new setting also needs a line in deploy/gapwatch.yaml, and a client gets it only from ``connection_options``. Secrets
are read from their files at each use; no error message repeats a value that may hold one.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from agent.errors import Unfit
from agent.traffic.decoder import AUTO, formats_by_name

BOOTSTRAP_S = 2.0  # bounds how long SIGTERM can wait for a client that is being opened
# A host name with an empty label, or one over 63 characters, cannot be encoded, and the client hangs on it.
_SERVER = re.compile(r"([\w-]{1,63}(?:\.[\w-]{1,63})*\.?|\[[0-9A-Fa-f:.%\w]+\]):(\d{1,5})")


def servers(value: object) -> object:
    """``"a:9092,b:9092"`` as the list that every Kafka client understands it as.

    Raises Unfit for what is no host:port; the text itself is not repeated, because it may contain a login.
    """
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
        return value
    addresses = [address.strip() for item in items for address in item.split(",") if address.strip()]
    for number, address in enumerate(addresses, start=1):
        match = _SERVER.fullmatch(address)
        if "://" in address:
            raise Unfit(f"a scheme in number {number}", "host:port alone: security_protocol sets the protocol")
        if match is None or not 0 < int(match[2]) < 65536:
            raise Unfit(f"no port, or no host, in number {number}", "host:port, and [address]:port for IPv6")
    return tuple(addresses)


def _has_a_file(name: str) -> str:
    if name not in (AUTO, *formats_by_name()):
        raise Unfit(repr(name), f"one of: {', '.join([AUTO, *formats_by_name()])}")
    return name


class Config(BaseModel):
    """Where the traffic is.

    bootstrap_servers: host:port of some brokers, a list or one text with commas between them
    mode: ``group`` shares the partitions among the pods and commits; ``assign`` reads all, commits if group_id is set,
    and without one continues where the store's counts end
    group_instance_id: a name that survives a restart, one for each agent: one that was killed goes on with its
    partitions at once, where they would wait for its session to time out. None: the pod's name; "": none
    ssl_cafile: the authority that signed the brokers' certificates, where the system does not know it
    ssl_certfile, ssl_keyfile: this client's own certificate (PEM), where the brokers ask for one
    ssl_check_hostname: false takes a certificate that names another host; the authority is checked all the same
    sasl_password_file: path of a file with the password, nothing else in it
    session_timeout_ms: how long a silent member keeps its partitions
    max_poll_interval_ms: a member that does not poll for this long gives up its partitions
    max_record_bytes: longer ones are counted and rejected; auto_offset_reset: where to start without a commit
    replays_topic: without records; by its partitions witnesses share the bases (``gapwatch migrate`` creates it)
    replays_partitions: of it; None: as many as witnesses replay bases, so that each base can have a witness of its own
    format: of the records' values, the NAME of a file in agent/traffic/formats; auto recognises that of each record
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bootstrap_servers: Annotated[tuple[str, ...], BeforeValidator(servers)] = Field(min_length=1)
    topic: str = Field(pattern=r"^[A-Za-z0-9._-]{1,249}$")
    group_id: str | None = "gapwatch"
    group_instance_id: str | None = None
    mode: Literal["group", "assign"] = "group"
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    ssl_cafile: Path | None = None
    ssl_certfile: Path | None = None
    ssl_keyfile: Path | None = None
    ssl_check_hostname: bool = True
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    sasl_username: str | None = None
    sasl_password_file: Path | None = None
    session_timeout_ms: int = Field(default=45_000, ge=1_000)
    max_poll_interval_ms: int = Field(default=300_000, ge=1_000)
    max_poll_records: int = Field(default=500, ge=1)
    max_record_bytes: int = Field(default=1_000_000, ge=1)
    auto_offset_reset: Literal["earliest", "latest"] = "latest"
    format: Annotated[str, AfterValidator(_has_a_file)] = AUTO
    replays_topic: str = Field(default="gapwatch.replays", pattern=r"^[A-Za-z0-9._-]{1,249}$")
    replays_partitions: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.mode == "group" and not self.group_id:
            raise ValueError("mode group needs a group_id; to read without a group say mode: assign")
        sasl = (self.sasl_mechanism, self.sasl_username, self.sasl_password_file)
        if self.uses_sasl and None in sasl:
            raise ValueError("SASL needs sasl_mechanism, sasl_username and sasl_password_file")
        if not self.uses_sasl and sasl != (None, None, None):
            wanted = "security_protocol SASL_SSL or SASL_PLAINTEXT with it: with this one there is no login"
            raise Unfit(f"sasl_* with {self.security_protocol}", wanted)
        if not self.uses_tls and (self.ssl_cafile, self.ssl_certfile, self.ssl_keyfile) != (None, None, None):
            wanted = "security_protocol SSL or SASL_SSL with it: with this one nothing is encrypted"
            raise Unfit(f"ssl_* with {self.security_protocol}", wanted)
        if self.ssl_keyfile and not self.ssl_certfile:
            raise ValueError("ssl_keyfile needs ssl_certfile: a key without its certificate proves nothing")
        return self

    def of_ownership(self) -> Self:
        """How a witness takes its share of ``replays_topic``: in one group with all other witnesses."""
        own = {"topic": self.replays_topic, "group_id": f"{self.group_id}.witness", "mode": "group"}
        return self.model_copy(update=own | {"auto_offset_reset": "latest"})

    def of_witness(self, pod: str) -> Self:
        """How a witness reads the traffic: alone in a group, so that it has every partition, and commits its own."""
        return self.model_copy(update={"group_id": f"{self.group_id}.witness.{pod}", "mode": "group"})

    @property
    def uses_sasl(self) -> bool:
        return self.security_protocol.startswith("SASL")

    @property
    def uses_tls(self) -> bool:
        return self.security_protocol.endswith("SSL")


class Password(str):
    """A string whose repr is ***: so it stays out of tracebacks with locals, and of the repr of a mapping with it."""

    def __repr__(self) -> str:
        return "'***'"


def password(config: Config) -> Password:
    """Read at each call, because the file may be rotated. Raises OSError, UnicodeDecodeError."""
    return Password(config.sasl_password_file.read_text().strip() if config.sasl_password_file else "")


def connection_options(config: Config) -> dict[str, Any]:
    """The options that every client of this configuration is opened with."""
    options: dict[str, Any] = {
        "bootstrap_servers": list(config.bootstrap_servers),
        "security_protocol": config.security_protocol,
        "bootstrap_timeout_ms": int(BOOTSTRAP_S * 1000),
        "reconnect_backoff_max_ms": 1000,
    }
    if config.uses_tls:
        files = {name: getattr(config, name) for name in ("ssl_cafile", "ssl_certfile", "ssl_keyfile")}
        options |= {name: str(file) for name, file in files.items() if file}
        options["ssl_check_hostname"] = config.ssl_check_hostname
    if config.uses_sasl:
        options["sasl_mechanism"] = config.sasl_mechanism
        options["sasl_plain_username"] = config.sasl_username
        options["sasl_plain_password"] = password(config)
    return options
