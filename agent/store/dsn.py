"""The address of the store, parsed from ``clickhouse.dsn`` and refused where it is none.

A password may have been written into any part of it, so a message says which part is wrong and never repeats its text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from agent.errors import Refused, Unfit

WANTED = "clickhouse://user@host:8443/database, https://user@host/database, or chdb:///folder"
MEMORY = "memory"
TLS_PORTS = (443, 8443)
# Ports of ClickHouse's other protocols: native, plain and with TLS; MySQL and PostgreSQL emulation; replication.
_OTHER_PORTS = {9000: "native", 9440: "native", 9004: "MySQL", 9005: "PostgreSQL", 9009: "interserver"}
_NAME = re.compile(r"[\w.-]+")


@dataclass(frozen=True, slots=True)
class Address:
    """folder: of the embedded engine, "memory" for one without; host, port, secure, user: of a server, else ""

    database: "" means the user's default
    """

    scheme: str
    folder: str = ""
    host: str = ""
    port: int = 0
    secure: bool = False
    user: str = ""
    database: str = ""

    @property
    def embedded(self) -> bool:
        return self.scheme == "chdb"

    def __str__(self) -> str:
        return f"chdb://{self.folder}" if self.embedded else f"{self.scheme}://{self.host}/{self.database}".rstrip("/")


def address(dsn: str) -> Address:
    """The parts of a DSN. Raises Refused, with ``clickhouse.dsn`` as the place."""
    try:
        parts = urlsplit(dsn)
        port = parts.port
    except ValueError:
        raise _wrong("an address that cannot be read, perhaps by a character that has to be %-encoded") from None
    options = parse_qs(parts.query, keep_blank_values=True)
    if parts.password is not None or any(re.search("pass|secret|token", name, re.IGNORECASE) for name in options):
        raise _wrong("a password in the address", "clickhouse.password_file, a file that holds it and nothing else")
    if parts.scheme not in ("chdb", "clickhouse", "http", "https") or "://" not in dsn:
        raise _wrong(_of_scheme(parts, dsn))
    if parts.fragment or set(options) - {"database"}:
        raise _wrong(
            "more than a scheme, a user, a host and a database", f"{WANTED}; ?database=NAME is its only option"
        )
    database = options.get("database", [""])[0]
    return _embedded(parts, database) if parts.scheme == "chdb" else _server(parts, port, database)


def checked(dsn: str) -> str:
    """The same text, once it is known to be an address. Raises Unfit, for pydantic validators."""
    try:
        address(dsn)
    except Refused as error:
        raise Unfit(str(error.actual), error.wanted) from None
    return dsn


def _embedded(parts: SplitResult, database: str) -> Address:
    if parts.netloc == MEMORY and parts.path in ("", "/"):
        return Address("chdb", MEMORY, database=_database(database))
    if parts.netloc or not Path(parts.path).is_absolute() or parts.path == "/":
        raise _wrong("no absolute path after chdb:", "chdb:///folder, with three slashes, or chdb://memory")
    return Address("chdb", parts.path, database=_database(database))


def _server(parts: SplitResult, port: int | None, database: str) -> Address:
    if not parts.hostname:
        raise _wrong("no host")
    protocol = _OTHER_PORTS.get(port or 0)
    if protocol and parts.scheme == "clickhouse":
        raise _wrong(
            f"port {port}, ClickHouse's {protocol} protocol", "its HTTP interface: port 8123, or 8443 with TLS"
        )
    secure = parts.scheme == "https" or (parts.scheme == "clickhouse" and port in TLS_PORTS)
    return Address(
        parts.scheme,
        host=parts.hostname,
        port=port or (8443 if secure else 8123),
        secure=secure,
        user=unquote(parts.username or "default"),
        database=_database(database or parts.path.strip("/")),
    )


def _database(name: str) -> str:
    if name and not _NAME.fullmatch(name):
        raise _wrong("no valid database name after the host", f"{WANTED}: letters, digits, '_', '-' and '.'")
    return name


def _of_scheme(parts: SplitResult, dsn: str) -> str:
    if "://" not in dsn:
        return "no scheme"
    if re.search("native|tcp", parts.scheme):
        return f"{parts.scheme}://, ClickHouse's native protocol, where its HTTP interface is used"
    return f"{parts.scheme}://, another protocol" if len(parts.scheme) <= 20 else "another protocol"


def _wrong(actual: str, wanted: str = WANTED) -> Refused:
    return Refused("clickhouse.dsn", actual, wanted)
