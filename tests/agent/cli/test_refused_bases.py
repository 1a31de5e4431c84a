"""A base that needs code of its own is refused by each command: one line with the reason, no prompt, no traceback, and
that code never runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from agent.assemble import monitor_of
from agent.config import load
from agent.worker.watched_bases import goldens_of, runner_of
from detectors.records import Reason, Status
from probes.canaries.round import Scheduled, replay_base_round
from probes.golden.archive import save
from tests.probes.goldens import golden
from tests.probes.model_code import RAN, with_code
from tests.probes.tiny import tiny_adapter, tiny_base

ROOT = Path(__file__).resolve().parents[3]
REASON = "code of a model folder is never run"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A base that needs its own code, with an adapter that was accepted on another base at the same path."""
    base = tiny_base(tmp_path / "base", tied=False)
    tiny_adapter(tmp_path / "a", base)
    with_code(base, "internlm2")
    rows = [{"id": f"c{i}", "messages": [{"role": "user", "content": f"q {i}"}]} for i in range(40)]
    (tmp_path / "canaries.jsonl").write_text("\n".join(map(json.dumps, rows)))
    adapters = [{"name": name, "path": "a", "canaries": "canaries.jsonl"} for name in ("new", golden().adapter)]
    settings = {
        "models": [{"name": golden().base, "path": "./base", "adapters": adapters}],
        "probes": {"golden_dir": "golden", "cache_dir": "cache", "device": "cpu", "threads": 1},
        "clickhouse": {"dsn": f"chdb://{tmp_path}/db"},
        "state_dir": "state",
    }
    save(golden(), tmp_path / "golden")
    path = tmp_path / "gapwatch.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.mark.parametrize(("words", "code"), [(("enrol", "new"), 2), (("probe", golden().adapter), 2), (("doctor",), 1)])
def test_the_command_gives_the_reason(config: Path, words: tuple[str, ...], code: int) -> None:
    """Even with "y" on standard input: that is no consent to run foreign code."""
    command = [sys.executable, "-m", "agent", *words, "--json", "--config", str(config)]
    environment = {**os.environ, "COLUMNS": "300"}
    done = subprocess.run(
        command, cwd=ROOT, input="y\ny\ny\n", capture_output=True, text=True, timeout=120, env=environment
    )
    assert done.returncode == code, done.stderr
    assert REASON in done.stdout and "y/N" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not (config.parent / "base" / RAN).exists()


def test_the_agent_is_unmonitorable_with_the_reason(config: Path) -> None:
    told = load(config)
    (model,) = told.models
    runner = runner_of(told, model)
    runner.open()
    goldens = {name: held for name, held in goldens_of(told, model).items() if name == golden().adapter}
    made = replay_base_round(runner, goldens, Scheduled(model.name, 0, 0.0, 512, 1), lambda: False)
    runner.close()
    assert made is not None
    (only,) = made.members
    assert only.blocked is Reason.UNREADABLE and REASON in only.detail
    assert [verdict.status for verdict in monitor_of(told).observe(made).verdicts] == [Status.UNMONITORABLE]
    assert not (config.parent / "base" / RAN).exists()
