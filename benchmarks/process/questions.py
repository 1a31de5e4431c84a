"""How long every on-call question takes over ten million rows, and every panel of a dashboard, in the embedded engine.

The rows are a fleet's: 200 adapters of 4 bases on 6 pods, weeks of request counts, rounds, evidence, hourly verdicts
and heartbeats, and three adapters that are degraded now. They are narrow, without texts and arrays of numbers, made in
the engine with at most 6 GB, and with roll-ups, which the inserts fill. Each question is asked as it stands and, where
it takes one, for a degraded adapter, so many times in a row; the figure is the least time of the slower form, so that
what else the machine does meanwhile is not in it, and the load is told beside it. A panel is asked for the time that
its dashboard opens with, of all adapters and of a degraded one. How long the command takes beside that, to start and to
open the store, is a figure of its own.
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import yaml

from agent.store import client as store
from agent.store import migrations
from benchmarks.figures import Figure, at_least, at_most, context
from dashboards.board import Dashboard, Panel
from dashboards.listed import BOARDS
from dashboards.macros import Window, filled_in

ROWS, QUICK_ROWS = 10_000_000, 200_000
REPEATS = 9
LONGEST_MS, MEMORY_GB = 200.0, 6
# Steps of a time series, on a screen that is about so many pixels wide.
PANEL_POINTS = 360
DEGRADED = "customer-007"
# What stands in a dashboard's text fields at first.
TYPED = {field.name: (field.value,) for board in BOARDS for field in board.typed}
# Table -> its share of the rows, and the columns of row ``n``, which is counted from now back.
_TABLES = {
    "request_counts": (
        0.4,
        """'bench' AS cluster, 'requests' AS topic, n % 6 AS partition, 50 * n AS first_offset,
        50 * n + 49 AS last_offset, {adapter} AS adapter, concat('engine-', toString(n % 6)) AS pod,
        toStartOfMinute(now() - toIntervalMinute(intDiv(n, 200))) AS minute, 1 + n % 50 AS n_requests,
        'gapwatch' AS consumer_group""",
    ),
    "evidence": (
        0.25,
        """'bench' AS cluster, concat('pod-', toString(n % 6)) AS pod, 'adapter' AS subject_kind, {adapter} AS subject,
        ['adapter_gap', 'golden_agreement', 'embedding_drift', 'logit_shift'][1 + intDiv(n, 200) % 4] AS detector,
        intDiv(n, 1600) AS round, now64(3) - toIntervalMinute(30 * round) AS at, sin(n) * 2 AS log_e, true AS pages""",
    ),
    "rounds": (
        0.1,
        """'bench' AS cluster, {pod} AS pod, {base} AS base, {adapter} AS adapter, intDiv(n, 400) AS round,
        now64(3) - toIntervalMinute(30 * round) AS at, 24 AS canaries, 24 AS draws, 1 + sin(n) / 50 AS retention,
        0.02 AS retention_sd, 24 AS retention_n, 1200 AS tokens_scored, 0.8 AS duration_s""",
    ),
    "verdicts": (
        0.1,
        """'bench' AS cluster, {pod} AS pod, 'adapter' AS subject_kind, {adapter} AS subject, {base} AS base,
        intDiv(n, 400) AS round, now64(3) - toIntervalMinute(60 * round + 1) AS at, 21.5 AS log_threshold,
        if((n % 200) IN (7, 77, 177) AND n < 1200, 'degraded', 'healthy') AS status,
        multiIf(status = 'healthy', 'within_tolerance', n >= 800, 'alarm', 'still_bad') AS reason,
        if(status = 'healthy', 'none', 'adapter_not_applied') AS cause, if(status = 'healthy', 1, 0.02) AS retention""",
    ),
    "heartbeats": (
        0.05,
        """'bench' AS cluster, concat('pod-', toString(n % 6)) AS pod, 10 AS rounds, 1000 AS records,
        now64(3) - toIntervalSecond(30 * intDiv(n, 6)) AS at""",
    ),
    "traffic_scores": (
        0.05,
        """'bench' AS cluster, {base} AS base, {adapter} AS adapter, concat('engine-', toString(n % 6)) AS pod,
        intDiv(n, 2000) AS round, now64(3) - toIntervalSecond(8 * n) AS at, hex(n) AS request_id, 'sampled' AS scored,
        60 AS tokens, 0.7 AS temperature, sin(n) AS against, map('base', sin(n), 'other', cos(n)) AS log_l""",
    ),
    "interactions": (
        0.05,
        """'bench' AS cluster, {adapter} AS adapter, {base} AS base, concat('engine-', toString(n % 6)) AS pod,
        now64(3) - toIntervalSecond(4 * n) AS at, hex(n) AS request_id, 'requests' AS topic, n % 6 AS partition,
        n AS offset, 400 AS prompt_chars, 300 AS output_chars""",
    ),
}
_OF_ROW = {
    "adapter": "concat('customer-', leftPad(toString(n % 200), 3, '0'))",
    "base": "concat('base-', toString(intDiv(n % 200, 50)))",
    "pod": "concat('pod-', toString(intDiv(n, 200) % 2))",
}
# Ten times in a month each adapter was reported and recovered, and three are open.
_NOTICES = """'bench' AS cluster, 'pod-0' AS pod, concat('bench/', {adapter}) AS dedup_key, 'adapter' AS subject_kind,
    {adapter} AS subject, {base} AS base, 'adapter_not_applied' AS cause, 'answers as its base does' AS summary,
    intDiv(n, 200) AS step, step % 2 = 1 OR step = 0 AND (n % 200) IN (7, 77, 177) AS opens,
    now64(3) - toIntervalHour(36 * step + 2) AS at, if(opens, 'trigger', 'resolve') AS kind,
    if(opens, 'degraded', 'recovered') AS reason"""


def measure(quick: bool) -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        return _measured(Path(folder), QUICK_ROWS if quick else ROWS)


def _measured(folder: Path, rows: int) -> list[Figure]:
    client = store.connect(f"chdb://{folder}/store?database=gapwatch")
    migrations.migrate(client)
    fill(client, rows)
    n = sum(int(client.query(f"SELECT count() FROM {table}").result_rows[0][0]) for table in _TABLES)
    taken = {name: slower_ms(client, name) for name in store.query_names()}
    of_panels = {
        f"{board.uid} {panel.name}": panel_ms(client, panel, hours_of(board))
        for board in BOARDS
        for panel in board.panels
    }
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    client.close()
    slowest = max(taken, key=lambda name: taken[name])
    return [
        at_least("questions: rows in the store", n, "rows", 0.999 * rows),
        at_most("questions: peak of memory, making the rows included", peak_gb, "GB", MEMORY_GB),
        at_most(f"questions: slowest of {len(taken)}", taken[slowest], "ms", LONGEST_MS),
        *(
            at_most(f"question {name}: slower of its forms, least of {REPEATS}", taken[name], "ms", LONGEST_MS)
            for name in taken
        ),
        at_most(f"panels: slowest of {len(of_panels)}", max(of_panels.values()), "ms", LONGEST_MS),
        *(
            at_most(f"panel {name}: slower of its forms, least of {REPEATS}", least, "ms", LONGEST_MS)
            for name, least in of_panels.items()
        ),
        context("questions: load of the machine meanwhile, mean of a minute", os.getloadavg()[0], ""),
        context("questions: the whole command for one, start and opening included", 1e3 * _command_s(folder), "ms"),
    ]


def fill(client: store.Client, rows: int) -> None:
    """So many rows over the tables, at most a million in one insert."""
    for table, (part, columns) in _TABLES.items():
        for first in range(0, round(part * rows), 1_000_000):
            _insert(client, table, columns, first, min(1_000_000, round(part * rows) - first))
    _insert(client, "notices", _NOTICES, 0, 4_000)


def _insert(client: store.Client, table: str, columns: str, first: int, rows: int) -> None:
    made = columns.format(**_OF_ROW)
    names = [name for name in re.findall(r"AS (\w+)", made) if name not in ("step", "opens")]
    # A count's own column has the name of the row's number.
    into = ["n" if name == "n_requests" else name for name in names]
    rows_of = f"SELECT {first} + number AS n FROM numbers({rows})"
    sql = f"INSERT INTO {table} ({', '.join(into)}) SELECT {', '.join(names)} FROM (SELECT {made} FROM ({rows_of}))"
    client.command(sql, settings={"max_memory_usage": MEMORY_GB * 10**9})


def slower_ms(client: store.Client, name: str) -> float:
    """Milliseconds, the least of so many: of the question as it stands and for one adapter the slower one."""
    forms: list[dict[str, str]] = [{}]
    if "subject" in store.query_parameters(name):
        forms.append({"subject": DEGRADED})
    return max(min(_times_ms(client, name, given)) for given in forms)


def hours_of(board: Dashboard) -> int:
    """Of the window that it opens with, which is written as `now-6h` or `now-7d`."""
    number, unit = board.since.removeprefix("now-")[:-1], board.since[-1]
    return int(number) * {"h": 1, "d": 24}[unit]


def panel_ms(client: store.Client, panel: Panel, hours: int) -> float:
    """Likewise, of a panel's SQL as the data source sends it. Its window ends now. hours: of the window"""
    slowest = 0.0
    for subjects in ((), (DEGRADED,)):
        now = time.time()
        window = Window(now - hours * 3600, now, int(hours * 3600 / PANEL_POINTS))
        sql = filled_in(panel.sql, window, {"cluster": (), "subject": subjects, "pod": (), **TYPED})
        slowest = max(slowest, min(_each_ms(partial(client.query, sql))))
    return slowest


def _times_ms(client: store.Client, name: str, given: dict[str, str]) -> list[float]:
    return _each_ms(partial(store.run_query, client, name, given))


def _each_ms(query: Callable[[], object]) -> list[float]:
    taken = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        query()
        taken.append(1e3 * (time.perf_counter() - begun))
    return taken


def _command_s(folder: Path) -> float:
    """Of a process of its own, which has to open the store: no agent runs."""
    adapters = [{"name": DEGRADED}]
    settings: dict[str, object] = {"models": [{"name": "b", "served": {"url": "http://x"}, "adapters": adapters}]}
    settings |= {"clickhouse": {"dsn": f"chdb://{folder}/store?database=gapwatch"}}
    settings |= {"telemetry": {"prometheus_port": 0, "control_port": 9}}
    (folder / "gapwatch.yaml").write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "agent", "query", "degraded", "--config", str(folder / "gapwatch.yaml")]
    begun = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=os.environ)
    return time.perf_counter() - begun
