"""What gapwatch doctor looks at of ClickHouse and of the disk that rows wait on while it is away."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from agent.config import Config, sink_configs
from agent.store import client as store
from agent.store import migrations
from agent.terminal.check import Check, tried

# The first whose own analyzer of queries is the one that the questions and views are written for.
OLDEST = (24, 3)
# Two clocks that differ by more make silent pods of live ones: a heartbeat counts for three minutes.
MOST_OFF_S = 60.0
LOGIN_WANTED = "clickhouse.dsn and clickhouse.password_file"
RIGHTS_WANTED = "SELECT and INSERT on the tables for this account (deploy/README.md), on a server that is not read-only"


def store_checks(config: Config, is_open: bool) -> Iterator[Check]:
    """is_open: an agent on this machine has the store, so that an embedded one cannot be opened here.

    Tables that are missing are no fault where the first agent may create them.
    """
    yield tried("disk", partial(_disk, config), "a state_dir with room for sinks.clickhouse.spool_mb, or less of that")
    if is_open and config.clickhouse.dsn.startswith("chdb:"):
        yield Check("clickhouse", True, "embedded, open in the running agent")
        return
    client: list[store.Client] = []
    yield tried("clickhouse", partial(_answers, config, client), LOGIN_WANTED)
    for opened in client:
        try:
            yield from _opened_checks(config, opened)
        finally:
            opened.close()


def _opened_checks(config: Config, client: store.Client) -> Iterator[Check]:
    missing = migrations.unapplied_in_words(client)
    if missing and config.clickhouse.migrations is not None:
        yield Check("clickhouse tables", False, missing, "gapwatch migrate: agents leave it to clickhouse.migrations")
    elif missing:
        yield Check("clickhouse tables", True, f"{missing}; the first agent applies them")
    else:
        yield tried("clickhouse tables", partial(_writes, client), RIGHTS_WANTED)
    yield tried("clickhouse clock", partial(_clock, client), "time synchronisation (NTP) here and there")


def _answers(config: Config, opened: list[store.Client]) -> str:
    client = store.connect(config.clickhouse.dsn, config.clickhouse.password_file)
    opened.append(client)
    version = str(client.command("SELECT version()"))
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise ValueError(f"version {version}, on which views and questions cannot run: wanted {oldest} or later")
    return f"version {version}"


def _writes(client: store.Client) -> str:
    """No row, and the same rights as for one."""
    try:
        client.command("INSERT INTO heartbeats SELECT * FROM heartbeats WHERE 0")
    except Exception as error:  # the driver's errors and the embedded engine's share no root
        if store.lacks_rights(error):
            raise ValueError(f"rows cannot be written (code {store.error_code(error)})") from error
        raise
    return "those of this version, and they may be written"


def _clock(client: store.Client) -> str:
    before = time.time()
    theirs = float(client.query("SELECT toUnixTimestamp64Milli(now64())").result_rows[0][0]) / 1000
    off = theirs - (before + time.time()) / 2
    if abs(off) > MOST_OFF_S:
        raise ValueError(f"the server's is {abs(off):.0f} s {'ahead of' if off > 0 else 'behind'} this machine's")
    return "agrees with this machine's"


def _disk(config: Config) -> str:
    """What waits there, and whether there is room for as much as may have to wait."""
    folder = _existing(config.state_dir)
    free_mb = shutil.disk_usage(folder).free / 1e6
    waiting_mb = sum(file.stat().st_size for file in (config.state_dir / "spool").glob("*/*.rows")) / 1e6
    wanted_mb = getattr(sink_configs(config).get("clickhouse"), "spool_mb", 0.0) - waiting_mb
    words = f"state_dir: {free_mb:.0f} MB free, {waiting_mb:.1f} MB of rows wait for ClickHouse"
    if free_mb < wanted_mb:
        raise ValueError(f"{words}, which may come to {wanted_mb + waiting_mb:.0f} MB while it is away")
    return words


def _existing(folder: Path) -> Path:
    """The folder, or what of its path is there before the agent has made the rest."""
    return next(there for there in (folder, *folder.parents) if there.exists())
