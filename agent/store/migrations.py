"""The tables: numbered SQL files, applied once each, on one node or on replicated servers."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from importlib.resources.abc import Traversable

from agent.errors import Refused
from agent.shipped import MIGRATIONS, texts
from agent.store.client import Client

_NUMBERED = re.compile(r"[0-9]{3}_")


def migrate(
    client: Client, folder: Traversable = MIGRATIONS, replicated: bool = False, on_cluster: str = ""
) -> tuple[int, ...]:
    """Run the numbered ``NNN_name.sql`` files that this database has not seen; give back their numbers.

    replicated: the Replicated twin of every engine; the server's macros must define shard and replica
    on_cluster: name for ON CLUSTER, "" for none

    Several agents may do so at once: every statement is IF NOT EXISTS. Raises Refused where an applied file changed.
    """
    client.command(worded(_VERSION_TABLE, replicated, on_cluster))
    seen = dict(client.query("SELECT version, sha256 FROM schema_version FINAL").result_rows)
    applied = []
    for file in (file for name, file in texts(folder, ".sql").items() if _NUMBERED.match(name)):
        version, text = int(file.name[:3]), file.read_text(encoding="utf-8")
        digest = hashlib.sha256(text.encode()).hexdigest()
        if seen.get(version, digest) != digest:
            raise Refused(
                str(file), "a file that was applied in another wording", "a new numbered file for every change"
            )
        if version not in seen:
            _apply(client, worded(text, replicated, on_cluster), version, file.name, digest)
            applied.append(version)
    return tuple(applied)


_VERSION_TABLE = """CREATE TABLE IF NOT EXISTS schema_version (
    version UInt32, name String, sha256 String, applied_at DateTime64(3, 'UTC')
) ENGINE = ReplacingMergeTree(applied_at) ORDER BY version"""
_KEEPER = "'/clickhouse/tables/{shard}/{database}/{table}', '{replica}'"


def worded(text: str, replicated: bool, on_cluster: str) -> str:
    """The statements of a migration as this installation wants them."""
    if replicated:
        text = re.sub(r"ENGINE = (\w*MergeTree)(?:\((\w+)\))?", _replicated, text)
    if on_cluster:
        named = r"((?:CREATE (?:TABLE|VIEW) IF NOT EXISTS|ALTER TABLE) \w+)"
        text = re.sub(named, rf"\1 ON CLUSTER '{on_cluster}'", text)
    return text


def _replicated(found: re.Match[str]) -> str:
    version = f", {found[2]}" if found[2] else ""
    return f"ENGINE = Replicated{found[1]}({_KEEPER}{version})"


def _apply(client: Client, text: str, version: int, name: str, digest: str) -> None:
    code = "\n".join(line for line in text.split("\n") if not line.startswith("--"))
    for statement in re.split(r";\s*\n", code):
        if statement.strip():
            client.command(statement)
    row = [version, name, digest, datetime.now(UTC)]
    client.insert("schema_version", [row], column_names=["version", "name", "sha256", "applied_at"])
