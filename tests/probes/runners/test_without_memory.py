"""Runs cases_without_memory.py and cases_one_base.py, each in a process of its own.

Their cases limit the memory of the process. In this process an allocation may be served from room that earlier tests
have given back to the allocator, and then no limit is met.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("cases", ["cases_without_memory.py", "cases_one_base.py"])
def test_what_there_is_no_memory_for_is_blind_alone(cases: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__).with_name(cases))]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=570, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
