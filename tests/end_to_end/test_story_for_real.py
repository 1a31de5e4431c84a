"""The same story over a real broker, the real engine and the real model: what ``make demo`` claims, checked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.demo.stage import ADAPTERS
from agent.store import client as store

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "agent", "demo", "--json", "--folder", str(folder)]
    environment = {**os.environ, "COLUMNS": "160"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, env=environment)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    return json.loads(done.stdout), folder


@pytest.mark.timeout(900)
def test_the_swap_is_caught_in_the_first_round_named_and_resolved(played: tuple[dict[str, Any], Path]) -> None:
    outcome, _ = played
    assert outcome["rounds_to_alarm"] == 1
    assert outcome["cause"] == "base_swapped_and_adapter_lost"
    assert outcome["resolved"] is True
    assert outcome["healthy_pages"] == 0
    assert outcome["worst_healthy_deviation"] < 1e-3
    assert outcome["scored"] <= 512


def test_the_base_under_the_names_is_caught_from_responses_alone(played: tuple[dict[str, Any], Path]) -> None:
    served = played[0]["served"]
    assert set(served["causes"]) == set(ADAPTERS)
    assert set(served["causes"].values()) == {"adapter_not_applied"}
    assert served["healthy"] > 0 and served["pages"] == 0


def test_the_store_answers_the_on_call_questions_after_the_agent_is_gone(played: tuple[dict[str, Any], Path]) -> None:
    _, folder = played
    client = store.connect(f"chdb://{folder / 'store'}")
    try:
        assert {row[0] for row in client.query("SELECT DISTINCT adapter FROM rounds").result_rows} == set(ADAPTERS)
        alarms = client.query("SELECT subject_kind, subject FROM verdicts WHERE reason = 'alarm'").result_rows
        assert ("base", "smollm2") in set(alarms)
        flips = client.query("SELECT adapter, golden_text, present_text FROM flips").result_rows
        assert {row[0] for row in flips} == set(ADAPTERS)
        assert all(golden != present for _, golden, present in flips)
        counted = client.query("SELECT sum(n) FROM request_counts FINAL").result_rows[0][0]
        assert counted > 0
        # Production text is not stored unless somebody asked for it.
        stored = client.query("SELECT countIf(prompt != '' OR output != '') , count() FROM interactions").result_rows[0]
        assert stored[0] == 0
        assert stored[1] > 0
    finally:
        client.close()
