"""How many threads may this process use on the CPU, beside an engine that comes first?

A container sees every core of its node. What it may use is the quota of its control group, and of every group above
it: cgroup v2 says it in ``cpu.max`` ("150000 100000": one and a half cores; "max": none), v1 in ``cpu.cfs_quota_us``
and ``cpu.cfs_period_us`` (-1: none). Beyond it every thread is stopped until the next period, so that 127 threads of a
quota of two are slower than two.

Source: kernel.org, Documentation/admin-guide/cgroup-v2.rst and scheduler/sched-bwc.rst.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

# Read when each library is loaded, or makes its first pool: BLAS and torch (OpenMP, MKL), tokenizers (rayon).
VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
# More of them share the memory's bandwidth and no work.
MOST = 16


@dataclass(frozen=True, slots=True)
class Quota:
    """cores: of one control group, fractions too; own: of the process's own group, and of none above it."""

    cores: float
    own: bool


@dataclass(frozen=True, slots=True)
class Share:
    """threads: to be used; limit: more than this are stopped or take the engine's; why: in words."""

    threads: int
    limit: int
    why: str


def share(machine: int, allowed: int, quotas: Sequence[Quota]) -> Share:
    """machine: cores there are; allowed: those that the process may run on; quotas: of its groups up to the root.

    A quota of the process's own group is a share of its own, and all of it is used, fractions rounded up. What it has
    without one, or by a group above, it has together with the engine, and half of it is left to that.
    """
    cores = max(1, min(machine, allowed))
    tightest = min(quotas, key=lambda quota: (quota.cores, not quota.own), default=None)
    if tightest is None or tightest.cores >= cores:
        seen = f"{allowed} of {machine} cores and no quota" if allowed < machine else f"{machine} cores and no quota"
        return Share(_half(cores), cores, f"{seen}: half of them is left to the engine")
    limit = max(1, math.ceil(tightest.cores))
    if tightest.own:
        return Share(min(limit, MOST), limit, f"a CPU quota of {tightest.cores:g} of {machine} cores")
    seen = f"a CPU quota of {tightest.cores:g} of {machine} cores for this container and others"
    return Share(_half(limit), limit, f"{seen}: half of it is left to the engine")


def _half(cores: int) -> int:
    return min(MOST, max(1, cores // 2))


def quota_of(cpu_max: str) -> float | None:
    """Cores by the text of a ``cpu.max``; None where it sets no limit or cannot be read."""
    words = cpu_max.split()
    return _cores(words[0], words[1] if len(words) > 1 else "100000") if words else None


def quota_of_v1(quota_us: str, period_us: str) -> float | None:
    """Cores by the texts of the two files of cgroup v1."""
    return _cores(quota_us.strip(), period_us.strip())


def _cores(quota: str, period: str) -> float | None:
    if not (quota.isdigit() and period.isdigit() and int(quota) and int(period)):
        return None
    return int(quota) / int(period)


def groups_of(proc_cgroup: str) -> tuple[str | None, str | None]:
    """Paths of the process's groups by ``/proc/self/cgroup``: in the v2 tree, and in the v1 tree of the CPU."""
    found: dict[str, str] = {}
    for line in proc_cgroup.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        found.update(
            dict.fromkeys(controllers.split(","), path) if controllers else {"v2": path} if number == "0" else {}
        )
    return found.get("v2"), found.get("cpu")


def mounts_of(mountinfo: str) -> tuple[str | None, str | None]:
    """Where the two trees are mounted, by ``/proc/self/mountinfo``."""
    v2 = v1 = None
    for line in mountinfo.splitlines():
        told = re.match(r"\S+ \S+ \S+ \S+ (\S+) .* - (\S+) \S+ (\S+)", line)
        if told and told[2] == "cgroup2":
            v2 = v2 or told[1]
        elif told and told[2] == "cgroup" and "cpu" in told[3].split(","):
            v1 = v1 or told[1]
    return v2, v1


def here(root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> Share:
    """Of this process, now; fewer threads where somebody has set OMP_NUM_THREADS to fewer.

    root: in whose place the system's files lie
    """
    found = share(os.cpu_count() or 1, len(os.sched_getaffinity(0)), list(_quotas(root)))
    told = environment.get(VARIABLES[0], "")
    if told.isdigit() and 0 < int(told) < found.threads:
        return replace(found, threads=int(told), why=f"OMP_NUM_THREADS is {told}")
    return found


def limit_libraries(threads: int, environment: MutableMapping[str, str]) -> None:
    """Tell the libraries that are not loaded yet. What somebody has set stays."""
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
    """The group's folder and those above it. Where the mount shows a part of the tree, as in a container without a
    name space of its own, the group's path does not lie there, and the mount itself is the process's group."""
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
