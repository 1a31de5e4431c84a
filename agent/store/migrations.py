"""The tables of the store: numbered SQL files, applied once each, on one node or on replicated servers.

A file that was released is never edited: databases that applied it would refuse to start. A change is a new file. They
are applied by the account that may: the agent's own, or one for ``gapwatch migrate``, and agents then only check.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import NamedTuple, Protocol

import structlog
from pydantic import BaseModel, ConfigDict, Field

from agent.clock import Clock
from agent.errors import Refused, Retryable
from agent.shipped import MIGRATIONS, texts
from agent.store import client as store
from agent.store.client import Client

_NUMBERED = re.compile(r"[0-9]{3}_")
DAY_S = 86_400.0
# No question of an agent or of a person on call looks further back without saying how far.
SHORTEST_KEEP_D = 8
# Tables whose rows may have an end -> the time that it is counted from. Golden records are kept for good.
TIMES = {
    **dict.fromkeys(("verdicts", "evidence", "notices", "flips", "rounds", "comparisons"), "toDateTime(at)"),
    **dict.fromkeys(("interactions", "batches", "aside", "embeddings", "heartbeats"), "toDateTime(at)"),
    **dict.fromkeys(("traffic_scores", "traffic_rounds", "calibrations", "files_replays"), "toDateTime(at)"),
    **dict.fromkeys(("passport_clocks", "worth"), "toDateTime(at)"),
    "request_counts": "minute",
    **dict.fromkeys(("rounds_hourly", "requests_hourly"), "hour"),
    **dict.fromkeys(("rounds_daily", "verdicts_daily"), "day"),
}

log = structlog.get_logger(__name__)


class Account(BaseModel):
    """Who creates and alters tables, on the server and in the database of ``clickhouse.dsn``.

    password_file: read by ``gapwatch migrate`` alone, so that agents do not need it
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    user: str = Field(min_length=1)
    password_file: Path | None = None


class Store(Protocol):
    """What the configuration says of a store; see agent.config.ClickHouse."""

    @property
    def dsn(self) -> str: ...
    @property
    def password_file(self) -> Path | None: ...
    @property
    def replicated(self) -> bool: ...
    @property
    def on_cluster(self) -> str: ...
    @property
    def keep(self) -> Mapping[str, float]: ...
    @property
    def migrations(self) -> Account | None: ...


class _File(NamedTuple):
    version: int
    name: str
    text: str
    digest: str


def opened(settings: Store, clock: Clock | None = None) -> Client:
    """A client of a store that has the tables of this version.

    Where no account is named for migrations, they are applied with this one. Nothing is created or altered in a store
    that has all tables, so an account that may only read and write is enough from then on. Raises Retryable in words
    where tables are missing that this account may not create, and what ``store.connect`` raises.
    """
    by_this_account = settings.migrations is None
    client = store.connect(settings.dsn, settings.password_file, create=by_this_account, on_cluster=settings.on_cluster)
    try:
        missing = unapplied_in_words(client)
        if missing and not by_this_account:
            raise _without_tables(missing, "they are left to clickhouse.migrations")
        if missing:
            _migrate_if_allowed(client, settings, missing, clock)
        if by_this_account:
            _keep_if_allowed(client, settings)
    except BaseException:
        client.close()
        raise
    return client


def _migrate_if_allowed(client: Client, settings: Store, missing: str, clock: Clock | None) -> None:
    try:
        migrate(client, replicated=settings.replicated, on_cluster=settings.on_cluster, clock=clock)
    except Exception as error:  # the driver's errors and the embedded engine's share no root
        if not store.lacks_rights(error):
            raise
        raise _without_tables(missing, "this account may not create them") from error


def _keep_if_allowed(client: Client, settings: Store) -> None:
    """A time of keeping that this account may not set is logged: it must not keep rows from being stored."""
    try:
        keep(client, settings.keep, settings.on_cluster)
    except Exception as error:
        if not store.lacks_rights(error):
            raise
        log.warning("clickhouse_keep_not_set", why="this account may not alter tables: gapwatch migrate sets it")


def _without_tables(missing: str, why: str) -> Retryable:
    return Retryable("clickhouse", f"{missing}, and {why}: run gapwatch migrate")


def unapplied_in_words(client: Client) -> str:
    """Which migrations of this version are not applied, and which of them were cut off; "" where all are."""
    missing, half = [file.version for file in _unapplied(client, MIGRATIONS)], half_applied(client)
    begun = f" ({_numbers(half)} was begun and did not end)" if half else ""
    return f"migrations {_numbers(missing)} are not applied{begun}" if missing else ""


def _numbers(versions: Iterable[int]) -> str:
    return ", ".join(f"{version:03d}" for version in versions)


def migrate(
    client: Client,
    folder: Traversable = MIGRATIONS,
    replicated: bool = False,
    on_cluster: str = "",
    clock: Clock | None = None,
) -> tuple[int, ...]:
    """Run the numbered ``NNN_name.sql`` files that this database has not applied yet; returns their numbers.

    replicated: the Replicated variant of every engine; the server's macros must define shard and replica
    on_cluster: name for ON CLUSTER, "" for none

    Several agents may migrate at once, and a file that was begun and did not end is applied again from its first
    statement: every statement may be run a second time. Raises Refused where an applied file changed.
    """
    if on_cluster:
        _create_database(client, on_cluster)
    for table in ("schema_version", "schema_begun"):
        client.command(statements(_VERSION_TABLE.format(table=table), replicated, on_cluster))
    now = datetime.fromtimestamp((clock or Clock()).now(), UTC)
    applied = []
    for file in _unapplied(client, folder):
        row = [file.version, file.name, file.digest, now]
        client.insert("schema_begun", [row], column_names=_VERSION_COLUMNS)
        for statement in split(statements(file.text, replicated, on_cluster)):
            client.command(statement)
        client.insert("schema_version", [row], column_names=_VERSION_COLUMNS)
        applied.append(file.version)
    return tuple(applied)


def half_applied(client: Client) -> tuple[int, ...]:
    """Numbers of the migrations that were begun and did not end: another agent is at it, or it was cut off. () also
    where the last version that migrated took no note of beginnings."""
    applied = "SELECT version FROM schema_version"
    sql = f"SELECT version FROM schema_begun FINAL WHERE version NOT IN ({applied}) ORDER BY version"
    try:
        return tuple(version for (version,) in client.query(sql).result_rows)
    except Exception as error:  # the driver's errors and the embedded engine's share no root
        if store.error_code(error) != store.UNKNOWN_TABLE:
            raise
        return ()


def _create_database(client: Client, on_cluster: str) -> None:
    """The connection's own database, on the other nodes too: ``store.connect`` creates it on one of them. An account
    that may not goes on: where it exists on all nodes, tables may still be created."""
    database = client.query("SELECT currentDatabase()").result_rows[0][0]
    try:
        client.command(f"CREATE DATABASE IF NOT EXISTS `{database}` ON CLUSTER '{on_cluster}'")
    except Exception as error:  # the driver's errors and the embedded engine's share no root
        if not store.lacks_rights(error):
            raise


def keep(client: Client, days_s: Mapping[str, float], on_cluster: str = "") -> tuple[str, ...]:
    """Set how long rows of these tables are kept; returns the tables that had another time before.

    days_s: table -> seconds, whole days. A table that is not among them keeps what it has, also what an earlier
    configuration gave it.
    """
    texts_of = "SELECT name, create_table_query FROM system.tables WHERE database = currentDatabase()"
    defined = dict(client.query(texts_of).result_rows)
    changed = []
    for table, seconds in sorted(days_s.items()):
        ttl = f"TTL {TIMES[table]} + toIntervalDay({round(seconds / DAY_S)})"
        if f"{ttl} " not in f"{defined.get(table, '')} ":
            client.command(statements(f"ALTER TABLE {table} MODIFY {ttl}", False, on_cluster))
            changed.append(table)
    return tuple(changed)


def _unapplied(client: Client, folder: Traversable) -> Iterator[_File]:
    """In the order of their numbers. Raises Refused where an applied file changed."""
    digests = _applied(client)
    for name, file in texts(folder, ".sql").items():
        if not _NUMBERED.match(name):
            continue
        version, text = int(file.name[:3]), file.read_text(encoding="utf-8")
        digest = hashlib.sha256(text.encode()).hexdigest()
        if digests.get(version, digest) != digest:
            raise Refused(str(file), "a file that changed after it was applied", "a new numbered file for every change")
        if version not in digests:
            yield _File(version, file.name, text, digest)


def _applied(client: Client) -> dict[int, str]:
    """Version -> digest of its file."""
    try:
        return dict(client.query("SELECT version, sha256 FROM schema_version FINAL").result_rows)
    except Exception as error:  # the driver's errors and the embedded engine's share no root
        if store.error_code(error) != store.UNKNOWN_TABLE:
            raise
        return {}


_VERSION_COLUMNS = ["version", "name", "sha256", "applied_at"]
_VERSION_TABLE = """CREATE TABLE IF NOT EXISTS {table} (
    version UInt32, name String, sha256 String, applied_at DateTime64(3, 'UTC')
) ENGINE = ReplacingMergeTree(applied_at) ORDER BY version"""
_KEEPER = "'/clickhouse/tables/{shard}/{database}/{table}', '{replica}'"


def statements(text: str, replicated: bool, on_cluster: str) -> str:
    """The statements of a migration, for replicated engines and ON CLUSTER where this installation uses them."""
    if replicated:
        text = re.sub(r"ENGINE = (\w*MergeTree)(?:\((\w+)\))?", _replicated, text)
    if on_cluster:
        named = r"((?:CREATE (?:TABLE|(?:MATERIALIZED )?VIEW) IF NOT EXISTS|CREATE OR REPLACE VIEW|ALTER TABLE) \w+)"
        text = re.sub(named, rf"\1 ON CLUSTER '{on_cluster}'", text)
    return text


def _replicated(engine: re.Match[str]) -> str:
    version = f", {engine[2]}" if engine[2] else ""
    return f"ENGINE = Replicated{engine[1]}({_KEEPER}{version})"


def split(text: str) -> list[str]:
    """The single statements of a migration."""
    code = "\n".join(line for line in text.split("\n") if not line.startswith("--"))
    return [statement for statement in re.split(r";\s*\n", code) if statement.strip()]
