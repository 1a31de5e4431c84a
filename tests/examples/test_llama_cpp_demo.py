"""What ``make demo-engine`` claims, on the real server of llama.cpp; and what it may not call a success."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from detectors.records import Cause
from examples.engines.llama_cpp.demo import ADAPTER, HEALTHY_ROUNDS, Outcome

ROOT = Path(__file__).resolve().parents[2]
ALL_HOLDS = Outcome(
    init=0,
    enrol=0,
    healthy_rounds=HEALTHY_ROUNDS,
    statuses=[200, 200, 200],
    listed=(ADAPTER,),
    cause=Cause.ADAPTER_NOT_APPLIED.value,
    evidence=60.0,
    log_threshold=17.0,
    rounds_to_resolve=2,
)


def played(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "examples.engines.llama_cpp.demo", "--folder", str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)


def test_scale_0_of_the_real_engine_is_caught_in_the_first_round_named_and_resolved(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="the real server of llama.cpp: pip install xllamacpp")
    done = played(tmp_path / "demo")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    end = done.stdout[done.stdout.index("What you saw") :]
    assert "✗" not in end and "cause: adapter not applied" in end
    assert f"at scale 0 the engine answered 200, 200, 200 and listed {ADAPTER}" in end


@pytest.mark.parametrize(
    "otherwise",
    [
        {"init": 1},
        {"enrol": 2},
        {"healthy_pages": 1},
        {"healthy_rounds": HEALTHY_ROUNDS - 1},
        {"statuses": [200, 503, 200]},
        {"statuses": []},
        {"listed": ()},
        {"cause": ""},
        {"cause": Cause.UNKNOWN.value},
        {"rounds_to_resolve": None},
    ],
)
def test_it_succeeds_only_where_each_claim_holds(otherwise: dict[str, Any]) -> None:
    assert ALL_HOLDS.passed
    assert not replace(ALL_HOLDS, **otherwise).passed


def test_a_folder_with_other_files_is_left_as_it_is(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="the real server of llama.cpp: pip install xllamacpp")
    (tmp_path / "mine").write_text("mine")
    done = played(tmp_path)
    assert done.returncode == 1 and "a folder with other files in it" in done.stderr
    assert (tmp_path / "mine").read_text() == "mine"
