"""gapwatch migrate: creates the tables of this version, or brings those of an earlier one up to it; for witnesses also
the topic by which they share the bases."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from rich.markup import escape

from agent.clock import Clock
from agent.config import ClickHouse, Config, load
from agent.errors import Refused, Retryable
from agent.kafka.client import grow_topic
from agent.store import client as store
from agent.store import migrations
from agent.terminal.console import as_json, say

HELD = (
    "a running agent has it open, and applied the migrations of its own version when it started: for those of this "
    "version stop that agent and run gapwatch migrate again, or start the agent in this version"
)


def migrate_store(path: Path, json: bool) -> int:
    """0 when the store has the tables of this version and keeps their rows as configured, and with role witness Kafka
    has the topic.

    With ``clickhouse.migrations`` where that names an account, else with the agent's own; on Kafka with the agent's
    login. Raises Refused where the account may not, Retryable where the store or the broker is away.
    """
    config = load(path)
    try:
        applied, kept = _migrated(config.clickhouse)
    except Exception as error:  # the driver's errors and the embedded engine's share no root
        if not store.lacks_rights(error):
            raise
        wanted = "an account with the rights that deploy/README.md lists"
        raise Refused("clickhouse.migrations", str(error).split("\n")[0][:300], wanted) from error
    topic = _topic(config)
    if json:
        as_json({"applied": list(applied), "keep_changed": list(kept), "topic": topic and topic._asdict()})
        return 0
    numbers = ", ".join(f"{version:03d}" for version in applied)
    say(f"[green]✓[/green] {f'applied {numbers}' if applied else 'the tables are those of this version'}")
    if kept:
        say(f"[green]✓[/green] {escape(', '.join(kept))}: kept as clickhouse.keep says")
    if topic is not None:
        say(f"[green]✓[/green] {topic.words}")
    return 0


class Topic(NamedTuple):
    """By which witnesses share the bases. before: how many partitions it had; 0: it was not there"""

    name: str
    before: int
    partitions: int

    @property
    def words(self) -> str:
        done = f"it had {self.before}" if self.before else "created"
        return f"topic {self.name}, by which witnesses share the bases: partitions {self.partitions}, {done}"


def _topic(config: Config) -> Topic | None:
    """None for a role that shares no bases."""
    if config.role != "witness" or config.kafka is None:
        return None
    kafka = config.kafka
    partitions = kafka.replays_partitions or len(config.replayed)
    return Topic(kafka.replays_topic, *grow_topic(kafka, kafka.replays_topic, partitions))


def _migrated(config: ClickHouse) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Numbers of the migrations applied, and the tables whose time of keeping was set."""
    account = config.migrations
    file, user = (account.password_file, account.user) if account else (config.password_file, "")
    client = _connected(config.dsn, file, user)
    try:
        applied = migrations.migrate(client, replicated=config.replicated, on_cluster=config.on_cluster, clock=Clock())
        return applied, migrations.keep(client, config.keep, config.on_cluster)
    finally:
        client.close()


def _connected(dsn: str, password_file: Path | None, user: str) -> store.Client:
    try:
        return store.connect(dsn, password_file, user)
    except Retryable as error:
        raise (Retryable(error.where, HELD) if error.why == store.HELD else error) from None
