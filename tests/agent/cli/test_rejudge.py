"""``gapwatch rejudge`` as a command: the embedded store that a running agent has open, and wrong usage."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

from tests.clickhouse_http import ClickHouseServer


def asked(folder: Path, dsn: str, *more: str) -> subprocess.CompletedProcess[str]:
    settings = {
        "models": [{"name": "m", "path": "./base", "adapters": [{"name": "a", "path": "a"}]}],
        "clickhouse": {"dsn": dsn},
    }
    (folder / "gapwatch.yaml").write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "agent", "rejudge", "--config", str(folder / "gapwatch.yaml"), *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_store_that_a_running_agent_has_open_says_what_to_do(tmp_path: Path, clickhouse: ClickHouseServer) -> None:
    ended = asked(tmp_path, f"chdb://{clickhouse.folder}")
    assert ended.returncode == 2
    assert "a running agent has it open, and does not serve whole rounds: stop that agent" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_store_that_is_away_cannot_tell_and_wrong_usage_is_another_code(tmp_path: Path) -> None:
    away = asked(tmp_path, "clickhouse://default@127.0.0.1:9/gapwatch")
    assert away.returncode == 2 and "refused" in away.stderr and "Traceback" not in away.stderr
    wrong = asked(tmp_path, "clickhouse://default@127.0.0.1:9/gapwatch", "--since", "yesterday")
    assert wrong.returncode == 64
    assert "--since: saw 'yesterday', wanted a time such as" in wrong.stderr
