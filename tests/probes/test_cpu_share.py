"""The number of threads, from the system's control group files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from probes.cpu_share import (
    VARIABLES,
    Quota,
    Share,
    cpu_s_of,
    groups_of,
    limit_libraries,
    mounts_of,
    process_share,
    quota_of,
    quota_of_v1,
    share,
)


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("200000 100000\n", 2.0),
        ("150000 100000", 1.5),
        ("50000", 0.5),
        ("max 100000", None),
        ("", None),
        ("x y", None),
        ("0 0", None),
    ],
)
def test_a_quota_of_v2_in_cores(text: str, cores: float | None) -> None:
    assert quota_of(text) == cores


@pytest.mark.parametrize(
    ("quota", "period", "cores"),
    [("400000\n", "100000\n", 4.0), ("25000", "50000", 0.5), ("-1\n", "100000\n", None), ("", "", None)],
)
def test_a_quota_of_v1_in_cores(quota: str, period: str, cores: float | None) -> None:
    assert quota_of_v1(quota, period) == cores


@pytest.mark.parametrize(
    ("machine", "allowed", "quotas", "threads", "limit"),
    [
        (128, 128, [Quota(2, own=True)], 2, 2),
        (128, 128, [Quota(1.5, own=True)], 2, 2),
        (128, 128, [Quota(0.25, own=True)], 1, 1),
        (128, 128, [Quota(8, own=True), Quota(4, own=False)], 2, 4),
        (128, 128, [Quota(4, own=True), Quota(8, own=False)], 4, 4),
        (128, 128, [Quota(4, own=True), Quota(4, own=False)], 4, 4),
        (128, 128, [Quota(64, own=True)], 16, 64),
        (128, 128, [], 16, 128),
        (8, 8, [], 4, 8),
        (2, 2, [], 1, 2),
        (1, 1, [], 1, 1),
        (128, 4, [], 2, 4),
        (4, 4, [Quota(16, own=True)], 2, 4),
    ],
)
def test_the_engine_keeps_its_part(machine: int, allowed: int, quotas: list[Quota], threads: int, limit: int) -> None:
    found = share(machine, allowed, quotas)
    assert (found.threads, found.limit) == (threads, limit)


def test_the_reason_is_given_in_words() -> None:
    assert share(128, 128, [Quota(1.5, own=True)]).why == "a CPU quota of 1.5 of 128 cores"
    assert share(128, 4, []).why == "4 of 128 cores and no quota: half of them is left to the engine"


def test_the_groups_and_mounts_of_both_versions_are_found() -> None:
    assert groups_of("0::/kubepods/pod1/c1\n") == ("/kubepods/pod1/c1", None)
    assert groups_of("5:cpuacct,cpu:/docker/x\n1:name=systemd:/y\n0::/\n") == ("/", "/docker/x")
    v2 = "30 23 0:26 / /sys/fs/cgroup ro,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
    v1 = "33 31 0:30 /docker/x /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n"
    other = "34 31 0:31 / /sys/fs/cgroup/cpuset ro - cgroup cgroup rw,cpuset\n"
    assert mounts_of(v2) == ("/sys/fs/cgroup", None)
    assert mounts_of(other + v1) == (None, "/sys/fs/cgroup/cpu,cpuacct")


def system(root: Path, group: str, mount: str, files: dict[str, str]) -> Path:
    """A root with what a process reads of its control groups."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(group)
    (root / "proc/self/mountinfo").write_text(mount)
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


V2 = "30 23 0:26 / /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n"
V1 = "33 31 0:30 /docker/x /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu\n"


@pytest.fixture
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 128)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(128)))


@pytest.mark.usefixtures("many_cores")
def test_in_a_container_the_mount_is_its_own_group(tmp_path: Path) -> None:
    found = process_share(system(tmp_path, "0::/\n", V2, {"sys/fs/cgroup/cpu.max": "300000 100000"}), {})
    assert found == Share(3, 3, "a CPU quota of 3 of 128 cores")


@pytest.mark.usefixtures("many_cores")
def test_of_nested_groups_the_tightest_holds(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/kubepods/pod1/c1/cpu.max": "max 100000",
        "sys/fs/cgroup/kubepods/pod1/cpu.max": "600000 100000",
        "sys/fs/cgroup/kubepods/cpu.max": "9000000 100000",
    }
    found = process_share(system(tmp_path, "0::/kubepods/pod1/c1\n", V2, files), {})
    assert (found.threads, found.limit) == (3, 6)
    assert "for this container and others" in found.why


@pytest.mark.usefixtures("many_cores")
def test_an_older_container_shows_its_group_at_the_mount(tmp_path: Path) -> None:
    files = {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "250000\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}
    found = process_share(system(tmp_path, "4:cpu,cpuacct:/docker/x\n", V1, files), {})
    assert (found.threads, found.limit) == (3, 3)


@pytest.mark.usefixtures("many_cores")
def test_without_control_groups_half_of_the_cores_are_the_engines(tmp_path: Path) -> None:
    assert process_share(tmp_path, {}).threads == 16
    assert process_share(tmp_path, {"OMP_NUM_THREADS": "2"}) == Share(2, 128, "OMP_NUM_THREADS is 2")
    assert process_share(tmp_path, {"OMP_NUM_THREADS": "many"}).threads == 16


def test_what_somebody_has_set_for_a_library_stays() -> None:
    environment = {"OMP_NUM_THREADS": "7"}
    limit_libraries(3, environment)
    assert environment == {**dict.fromkeys(VARIABLES, "3"), "OMP_NUM_THREADS": "7"}


def test_cpu_seconds_of_a_process(tmp_path: Path) -> None:
    (tmp_path / "proc/7").mkdir(parents=True)
    ticks = os.sysconf("SC_CLK_TCK")
    fields = ["S", *map(str, range(4, 14)), str(3 * ticks), str(ticks), *["0"] * 30]
    (tmp_path / "proc/7/stat").write_text(f"7 (a (b) c) {' '.join(fields)}\n")
    assert cpu_s_of(7, tmp_path) == 4.0
    assert cpu_s_of(8, tmp_path) == 0.0 and cpu_s_of(os.getpid()) > 0
