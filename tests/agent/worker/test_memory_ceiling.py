"""Limits of a container as the kernel writes them, and the ceiling below them."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.worker import memory_ceiling
from agent.worker.memory_ceiling import (
    ADAPTER_BYTES,
    AGENT_BYTES,
    ceiling,
    container_limit,
    ended_by_kernel,
    held_by,
    may_use_gpu,
)

MB = 1_000_000
V2 = "sys/fs/cgroup"
V1 = "sys/fs/cgroup/memory"


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in {"proc/meminfo": "MemTotal: 16000000 kB\n", **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_the_models_may_hold_what_the_agent_leaves_of_the_limit() -> None:
    assert ceiling(None, 3) is None
    assert ceiling(2_000 * MB, 3) == 2_000 * MB - AGENT_BYTES - 3 * ADAPTER_BYTES
    assert ceiling(100 * MB, 1) == 0


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"proc/self/cgroup": "0::/\n", f"{V2}/memory.max": "2000000\n"}, 2_000_000),
        ({"proc/self/cgroup": "0::/\n", f"{V2}/memory.max": "max\n"}, None),
        ({"proc/self/cgroup": "0::/pod/it\n", f"{V2}/pod/it/memory.max": "max\n", f"{V2}/pod/memory.max": "7\n"}, 7),
        ({"proc/self/cgroup": "0::/elsewhere\n", f"{V2}/memory.max": "2000000\n"}, 2_000_000),
        ({"proc/self/cgroup": "4:memory:/it\n0::/\n", f"{V1}/it/memory.limit_in_bytes": "9\n"}, 9),
        ({"proc/self/cgroup": "4:cpu,memory:/\n", f"{V1}/memory.limit_in_bytes": "9223372036854771712\n"}, None),
        ({}, None),
    ],
)
def test_the_least_limit_of_the_group_and_of_those_above_it_holds(
    tmp_path: Path, files: dict[str, str], limit: int | None
) -> None:
    assert container_limit(machine(tmp_path, files)) == limit


def test_what_the_kernel_ended_is_counted_for_the_whole_container(tmp_path: Path) -> None:
    events = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n"
    assert ended_by_kernel(machine(tmp_path / "v2", {"proc/self/cgroup": "0::/\n", f"{V2}/memory.events": events})) == 2
    control = {"proc/self/cgroup": "4:memory:/it\n", f"{V1}/it/memory.oom_control": "under_oom 0\noom_kill 1\n"}
    assert ended_by_kernel(machine(tmp_path / "v1", control)) == 1
    assert ended_by_kernel(tmp_path) == 0


def test_a_process_holds_what_no_file_backs_shared_or_not() -> None:
    before = held_by(os.getpid())
    with mmap.mmap(-1, 64 * MB) as shared:
        for _ in range(64):
            shared.write(b"x" * MB)
        assert held_by(os.getpid()) - before >= 60 * MB
    assert held_by(2**30) == 0, "no such process"


def test_by_its_name_a_device_is_the_cpu_or_may_be_a_gpu(tmp_path: Path) -> None:
    assert [may_use_gpu(device, tmp_path) for device in ("cpu", "auto", "cuda", "cuda:1", "xpu")] == [
        False,
        False,
        True,
        True,
        True,
    ]
    machine(tmp_path, {"dev/nvidiactl": ""})
    assert may_use_gpu("auto", tmp_path) and not may_use_gpu("cpu", tmp_path)


LIMITED = """
import sys
import numpy as np
from agent.worker.memory_ceiling import held_by, limit_own_data
import os, mmap
untouched = mmap.mmap(-1, 300_000_000, flags=mmap.MAP_PRIVATE)
before = held_by(os.getpid())
limit_own_data(before + 100_000_000)
fits = bytearray(80_000_000)
try:
    bytearray(80_000_000)
except MemoryError:
    print("refused")
"""


def test_what_is_mapped_and_never_touched_does_not_count_and_what_is_held_does() -> None:
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, check=True)
    assert done.stdout == "refused\n"


def test_the_kernel_is_asked_to_take_this_process_first(tmp_path: Path) -> None:
    memory_ceiling.go_first(machine(tmp_path, {"proc/self/oom_score_adj": "0"}))
    assert (tmp_path / "proc/self/oom_score_adj").read_text() == "1000"
    memory_ceiling.go_first(tmp_path / "a sandbox without that file")
