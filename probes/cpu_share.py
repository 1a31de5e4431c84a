"""How many CPU threads may this process use, beside a serving engine that has priority?

A container sees every core of its node. What it may use is limited by the quota of its control group and of every
group above it: cgroup v2 holds it in ``cpu.max`` ("150000 100000": one and a half cores; "max": none), v1 in
``cpu.cfs_quota_us`` and ``cpu.cfs_period_us`` (-1: none). Beyond it every thread is stopped until the next period, so
that 127 threads under a quota of two cores are slower than two threads. Libraries read their limit when they are
loaded: ``limit_libraries`` has to be called before any of them is imported.

Source: kernel.org, Documentation/admin-guide/cgroup-v2.rst and scheduler/sched-bwc.rst.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

# Read when each library is loaded, or creates its first thread pool: BLAS and torch (OpenMP, MKL), tokenizers (rayon).
VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
# More threads than this compete for memory bandwidth and finish no sooner.
MOST = 16


@dataclass(frozen=True, slots=True)
class Quota:
    """The CPU quota of one control group. cores: fractions too; own: of the process's own group, not one above."""

    cores: float
    own: bool


@dataclass(frozen=True, slots=True)
class Share:
    """threads: to use; limit: more would be stopped, or would take the engine's cores; why: in words."""

    threads: int
    limit: int
    why: str


def share(machine: int, allowed: int, quotas: Sequence[Quota]) -> Share:
    """Threads to use under these limits.

    machine: cores of the machine; allowed: those that the process may run on; quotas: of its groups up to the root
    A quota of the process's own group belongs to this process alone, and all of it is used, fractions rounded up. Cores
    without a quota, or with one of a group above, are shared with the engine, and half of them are left to it.
    """
    cores = max(1, min(machine, allowed))
    tightest = min(quotas, key=lambda quota: (quota.cores, not quota.own), default=None)
    if tightest is None or tightest.cores >= cores:
        cores_in_words = f"{allowed} of {machine} cores" if allowed < machine else f"{machine} cores"
        return Share(_half(cores), cores, f"{cores_in_words} and no quota: half of them is left to the engine")
    limit = max(1, math.ceil(tightest.cores))
    if tightest.own:
        return Share(min(limit, MOST), limit, f"a CPU quota of {tightest.cores:g} of {machine} cores")
    quota = f"a CPU quota of {tightest.cores:g} of {machine} cores for this container and others"
    return Share(_half(limit), limit, f"{quota}: half of it is left to the engine")


def _half(cores: int) -> int:
    return min(MOST, max(1, cores // 2))


def quota_of(cpu_max: str) -> float | None:
    """Cores, from the text of a ``cpu.max``; None where it sets no limit or cannot be parsed."""
    words = cpu_max.split()
    return _cores(words[0], words[1] if len(words) > 1 else "100000") if words else None


def quota_of_v1(quota_us: str, period_us: str) -> float | None:
    """Cores, from the texts of the two files of cgroup v1; None likewise."""
    return _cores(quota_us.strip(), period_us.strip())


def _cores(quota: str, period: str) -> float | None:
    if not (quota.isdigit() and period.isdigit() and int(quota) and int(period)):
        return None
    return int(quota) / int(period)


def groups_of(proc_cgroup: str) -> tuple[str | None, str | None]:
    """Paths of the process's groups, from ``/proc/self/cgroup``: in the v2 tree, and in the v1 tree of the CPU."""
    paths: dict[str, str] = {}
    for line in proc_cgroup.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        paths.update(
            dict.fromkeys(controllers.split(","), path) if controllers else {"v2": path} if number == "0" else {}
        )
    return paths.get("v2"), paths.get("cpu")


def mounts_of(mountinfo: str) -> tuple[str | None, str | None]:
    """Where the two trees are mounted, from ``/proc/self/mountinfo``."""
    v2 = v1 = None
    for line in mountinfo.splitlines():
        mount = re.match(r"\S+ \S+ \S+ \S+ (\S+) .* - (\S+) \S+ (\S+)", line)
        if mount and mount[2] == "cgroup2":
            v2 = v2 or mount[1]
        elif mount and mount[2] == "cgroup" and "cpu" in mount[3].split(","):
            v1 = v1 or mount[1]
    return v2, v1


def process_share(root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> Share:
    """The share of this process, now; fewer threads where OMP_NUM_THREADS is set to fewer.

    root: folder that stands for the file system's root
    """
    present = share(os.cpu_count() or 1, len(os.sched_getaffinity(0)), list(_quotas(root)))
    configured = environment.get(VARIABLES[0], "")
    if configured.isdigit() and 0 < int(configured) < present.threads:
        return replace(present, threads=int(configured), why=f"OMP_NUM_THREADS is {configured}")
    return present


def limit_libraries(threads: int, environment: MutableMapping[str, str]) -> None:
    """Limit the libraries that are not loaded yet. Variables that are set already stay as they are."""
    for name in VARIABLES:
        environment.setdefault(name, str(threads))


def _quotas(root: Path) -> Iterator[Quota]:
    proc = root / "proc" / "self"
    groups, mounts = groups_of(_text(proc / "cgroup")), mounts_of(_text(proc / "mountinfo"))
    for group, mount, read in zip(groups, mounts, (_of_v2, _of_v1), strict=True):
        if group is None or mount is None:
            continue
        for number, folder in enumerate(_upwards(root / mount.lstrip("/"), group)):
            cores = read(folder)
            if cores is not None:
                yield Quota(cores, own=number == 0)


def _upwards(mount: Path, group: str) -> Iterator[Path]:
    """The group's folder and those above it.

    Where the mount shows only a part of the tree, as in a container without a cgroup name space of its own, the group's
    path does not exist under it, and the mount itself is the process's group.
    """
    path = PurePosixPath(group.lstrip("/"))
    if not (mount / path).is_dir():
        path = PurePosixPath()
    for part in (path, *path.parents):
        yield mount / part


def _of_v2(folder: Path) -> float | None:
    return quota_of(_text(folder / "cpu.max"))


def _of_v1(folder: Path) -> float | None:
    return quota_of_v1(_text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us"))


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


def cpu_s_of(pid: int, root: Path = Path("/")) -> float:
    """CPU seconds that a process has used, all its threads together; 0 where it is gone.

    Source: proc_pid_stat(5), utime and stime; its second field may hold spaces and brackets.
    """
    try:
        text = (root / f"proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
