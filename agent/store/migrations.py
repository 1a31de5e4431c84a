"""The tables of the store: numbered SQL files, applied once each, on one node or on replicated servers.

A file that was released is never edited: databases that applied it would refuse to start. A change is a new file.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from importlib.resources.abc import Traversable

from agent.clock import Clock
from agent.errors import Refused
from agent.shipped import MIGRATIONS, texts
from agent.store.client import Client

_NUMBERED = re.compile(r"[0-9]{3}_")


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

    Several agents may migrate at once: every statement is IF NOT EXISTS. Raises Refused where an applied file changed.
    """
    client.command(statements(_VERSION_TABLE, replicated, on_cluster))
    digests = dict(client.query("SELECT version, sha256 FROM schema_version FINAL").result_rows)
    applied_at = datetime.fromtimestamp((clock or Clock()).now(), UTC)
    applied = []
    for file in (file for name, file in texts(folder, ".sql").items() if _NUMBERED.match(name)):
        version, text = int(file.name[:3]), file.read_text(encoding="utf-8")
        digest = hashlib.sha256(text.encode()).hexdigest()
        if digests.get(version, digest) != digest:
            raise Refused(str(file), "a file that changed after it was applied", "a new numbered file for every change")
        if version not in digests:
            _apply(client, statements(text, replicated, on_cluster))
            row = [version, file.name, digest, applied_at]
            client.insert("schema_version", [row], column_names=["version", "name", "sha256", "applied_at"])
            applied.append(version)
    return tuple(applied)


_VERSION_TABLE = """CREATE TABLE IF NOT EXISTS schema_version (
    version UInt32, name String, sha256 String, applied_at DateTime64(3, 'UTC')
) ENGINE = ReplacingMergeTree(applied_at) ORDER BY version"""
_KEEPER = "'/clickhouse/tables/{shard}/{database}/{table}', '{replica}'"


def statements(text: str, replicated: bool, on_cluster: str) -> str:
    """The statements of a migration, for replicated engines and ON CLUSTER where this installation uses them."""
    if replicated:
        text = re.sub(r"ENGINE = (\w*MergeTree)(?:\((\w+)\))?", _replicated, text)
    if on_cluster:
        named = r"((?:CREATE (?:TABLE|VIEW) IF NOT EXISTS|ALTER TABLE) \w+)"
        text = re.sub(named, rf"\1 ON CLUSTER '{on_cluster}'", text)
    return text


def _replicated(engine: re.Match[str]) -> str:
    version = f", {engine[2]}" if engine[2] else ""
    return f"ENGINE = Replicated{engine[1]}({_KEEPER}{version})"


def _apply(client: Client, text: str) -> None:
    code = "\n".join(line for line in text.split("\n") if not line.startswith("--"))
    for statement in re.split(r";\s*\n", code):
        if statement.strip():
            client.command(statement)
