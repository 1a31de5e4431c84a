"""How much memory may the model process hold, so that the container's limit is never reached?

At that limit the kernel ends a process of its own choice, and on cgroup v2 the kubelet has it end every process of the
container at once (memory.oom.group). So the models have a ceiling of their own below it. Three things keep it, the
first of which is enough in nearly every case:

- RLIMIT_DATA in the model process: an allocation beyond it fails, and that is an error that is handled. Not RLIMIT_AS:
  CUDA reserves more address space than there is memory. Not where a GPU is used, whose driver maps what it likes.
- The agent's process looks at what the other one holds and ends it above the ceiling.
- ``oom_score_adj``: where the kernel chooses after all, it takes the model process.

Source: setrlimit(2), proc_pid_status(5), kernel.org Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

# What the agent's own process needs of the container's memory. Measured (RssAnon of ``gapwatch run``, three adapters, a
# round every 2 s for 40 s): 0.10 GB with a ClickHouse that is away, 0.21 GB with the embedded engine. The rest is for
# what Kafka's client fetches at once, 50 MB, and for a round in transit.
AGENT_BYTES = 300_000_000
# And of each adapter: its golden record and the one before, 5 MB each in examples/helpdesk.
ADAPTER_BYTES = 10_000_000
# The kernel takes the process with the highest score first; 1000 is the most.
FIRST_TO_GO = 1000
# (controller in /proc/self/cgroup, mount, limit, counter of processes that the kernel ended): cgroup v2, then v1.
TREES = (
    ("", "sys/fs/cgroup", "memory.max", "memory.events"),
    ("memory", "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.oom_control"),
)
# Files of devices that the models may run on beside the CPU.
GPUS = ("dev/nvidiactl", "dev/kfd", "dev/dxg")


def ceiling(limit: int | None, adapters: int) -> int | None:
    """Bytes that the model process may hold beside the agent's own, None where the container has no limit.

    adapters: how many are watched
    """
    return None if limit is None else max(0, limit - AGENT_BYTES - adapters * ADAPTER_BYTES)


def container_limit(root: Path = Path("/")) -> int | None:
    """The least limit of this process's control group and of all above it, in bytes; None where there is none.

    root: folder that stands for the file system's root
    """
    machine = _fields(root / "proc/meminfo").get("MemTotal:")
    limits = [limit for folder, name, _ in _groups(root) if (limit := _number(folder / name)) is not None]
    # v1 writes no limit as a number beyond any machine's memory.
    set_by_someone = [limit for limit in limits if machine is None or limit < 1024 * machine]
    return min(set_by_someone, default=None)


def ended_by_kernel(root: Path = Path("/")) -> int:
    """How many processes of this container the kernel has ended for want of memory so far."""
    counts = [_fields(folder / events).get("oom_kill", 0) for folder, _, events in _groups(root)]
    return max(counts, default=0)


def held_by(pid: int, root: Path = Path("/")) -> int:
    """Bytes of the process that no file backs and that cannot be reclaimed; 0 where it is gone."""
    status = _fields(root / f"proc/{pid}/status")
    return 1024 * (status.get("RssAnon:", 0) + status.get("RssShmem:", 0))


def may_use_gpu(device: str, root: Path = Path("/")) -> bool:
    """By its name in the configuration; asked before any model library is loaded."""
    return device != "cpu" and (device != "auto" or any((root / file).exists() for file in GPUS))


def limit_own_data(most: int) -> None:
    """From now on this process cannot hold more than so many bytes: an allocation beyond fails.

    To be called once the model libraries are loaded. The limit counts what is mapped, and they map 0.6 GB that they
    never touch (torch 2.13 with CUDA's libraries: 0.9 GB mapped, 0.3 GB held), which is no memory.
    """
    status = _fields(Path("/proc/self/status"))
    untouched = 1024 * max(0, status.get("VmData:", 0) - status.get("RssAnon:", 0))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = most + untouched
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def go_first(root: Path = Path("/")) -> None:
    """Have the kernel take this process before any other of the container."""
    try:
        (root / "proc/self/oom_score_adj").write_text(str(FIRST_TO_GO))
    except OSError:
        return  # a sandbox without that file: the two other guards remain


def _groups(root: Path) -> Iterator[tuple[Path, str, str]]:
    """Folder, limit and events of the process's group and of those above it, in each tree that there is.

    In a container with a name space of its own the path is not under the mount: the mount itself is its group then.
    """
    lines = [line.split(":", 2) for line in _text(root / "proc/self/cgroup").splitlines()]
    for controller, mount, limit, events in TREES:
        for _, controllers, path in lines:
            if controller in controllers.split(","):
                group = root / mount / path.lstrip("/")
                top = root / mount
                chain = [group, *group.parents] if group.is_dir() else [top]
                yield from ((folder, limit, events) for folder in chain if folder.is_relative_to(top))


def _fields(file: Path) -> dict[str, int]:
    rows = [line.split() for line in _text(file).splitlines()]
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}


def _number(file: Path) -> int | None:
    text = _text(file).strip()
    return int(text) if text.isdigit() else None


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
