"""Runs cases_without_memory.py in a process of its own.

Its cases limit the address space. In this process an allocation may be served from room that earlier tests have given
back to the allocator, and then no limit is met.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CASES = Path(__file__).with_name("cases_without_memory.py")
ROOT = Path(__file__).resolve().parents[3]


def test_an_adapter_without_memory_is_blind_alone() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CASES)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
