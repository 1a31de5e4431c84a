"""A configuration over a store with rows of two adapters, for the tests of costs and of the portfolio."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import yaml

from agent.records import Finding
from agent.store import client as store
from agent.store import migrations
from tests.agent import findings
from tests.agent.findings import BASE, ROUTER, TONE
from tests.agent.store.stored import insert

# Seconds ago -> CPU seconds of agent and models by then.
BEATS = ((7000.0, (1.0, 2.0)), (30.0, (11.0, 32.0)))


def configured(folder: Path, stored_in: Path | None = None, **more: Any) -> Path:
    """stored_in: folder of the embedded store"""
    settings = {
        "models": [
            {"name": BASE, "served": {"url": "http://127.0.0.1:9"}, "adapters": [{"name": ROUTER}, {"name": TONE}]}
        ],
        "clickhouse": {"dsn": f"chdb://{stored_in or folder / 'store'}"},
        "probes": {"golden_dir": "golden"},
        "telemetry": {"prometheus_port": 0, "control_port": 1},
        "cluster": "prod",
    }
    (folder / "gapwatch.yaml").write_text(yaml.safe_dump(settings | more))
    return folder / "gapwatch.yaml"


def fill(folder: Path) -> Path:
    """The folder, once it is a store that holds two hours."""
    now = time.time()
    client = store.connect(f"chdb://{folder}")
    migrations.migrate(client)
    rounds = [findings.base_round(number, now - 7000 + 60 * number) for number in range(3)]
    # Of a pod that started before the window what it had at its first heartbeat is not of this time.
    beats = [findings.heartbeat(now - ago, 8.0 * 86_400.0 - ago, cpu_s) for ago, cpu_s in BEATS]
    verdicts = [findings.verdict(at=now - 30, subject=name) for name in (ROUTER, TONE)]
    traffic: list[Finding] = [
        findings.batch(at=now - 3600, n=100),
        findings.embedding(at=now),
        findings.traffic_round(now - 60),
    ]
    insert(client, *rounds, *beats, *verdicts, *traffic)
    client.close()
    return folder
