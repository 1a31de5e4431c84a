"""Is there enough free memory, and what do the errors of torch and Python say where there was not?

Errors become NoMemory, which is answered by waiting and smaller batches, or Unreplayable, which is not.
"""

from __future__ import annotations

import ctypes
import gc
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from probes.errors import NoMemory, Unreplayable
from probes.model.devices.card_faults import card_fault

Question = TypeVar("Question")
Answer = TypeVar("Answer")

# Messages of torch's allocators; only CUDA's errors have a class of their own.
MESSAGES = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
# (controller, folder of its cgroups, limit, used): cgroup v2, then v1.
CGROUPS = (
    ("", "sys/fs/cgroup", "memory.max", "memory.current"),
    ("memory", "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
)
# Cached files and kernel tables count as used by the container, and are reclaimed before any process is killed. Active
# pages too: a base that was read twice, to be hashed and to be run, is nothing else.
RECLAIMABLE = ("inactive_file", "active_file", "slab_reclaimable")
# The process's own limit and what counts towards it: RLIMIT_DATA limits private writable memory (setrlimit(2)).
LIMIT_OF_PROCESS, USED_OF_PROCESS = "Max data size", "VmData:"


@contextmanager
def memory_errors(path: str, requested: int = 0) -> Iterator[None]:
    """Turns what torch raises into NoMemory where it is about memory, else into Unreplayable with its first line.

    path: of the artefact, for the message; requested: bytes that are needed within, 0 where they were not counted
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        reason = card_fault(error) or f"cannot be run: {_first_line(error) or type(error).__name__}"
        raise no_memory(path, error, requested) or Unreplayable(path, reason) from error


def no_memory(path: str, error: Exception, requested: int = 0) -> NoMemory | None:
    """The same as NoMemory, None where the error is about something else. requested: as in ``memory_errors``"""
    if not isinstance(error, MemoryError) and not any(word in str(error) for word in MESSAGES):
        return None
    message = _first_line(error)
    on_host = re.search(r"tried to allocate (\d+) bytes", message)
    if on_host or isinstance(error, MemoryError):
        return NoMemory(path, requested or int(on_host[1] if on_host else 0), free_bytes())
    # A device's message holds how much was requested and how much was free, then advice on its allocator.
    return NoMemory(path, requested, None, message.partition(" Including ")[0])


def check_free(path: str, requested: int, root: Path = Path("/")) -> None:
    """Raises NoMemory where so many bytes are more than this process can have. To be called before they are allocated:
    beyond a container's limit no error is raised, the process is killed."""
    free = free_bytes(root)
    if free is not None and requested > free:
        raise NoMemory(path, requested, free)


def free_bytes(root: Path = Path("/")) -> int | None:
    """Host memory that this process may still allocate, by machine, container and its own limit of data (RLIMIT_DATA);
    None where none is known."""
    limits = [_machine(root / "proc/meminfo"), _process(root / "proc/self"), *_containers(root)]
    return min((free for free in limits if free is not None), default=None)


def give_back() -> None:
    """What was let go goes back to the system: models whose modules refer to each other, and what the allocator keeps
    for later. To be called before free memory is measured."""
    gc.collect()
    with suppress(OSError, AttributeError):  # another C library has none, and keeps less
        ctypes.CDLL(None).malloc_trim(0)


def in_halves(batch: Sequence[Question], answer: Callable[[Sequence[Question]], list[Answer]]) -> list[Answer]:
    """The answers to a batch, in smaller ones where there is no memory for all of it. Raises NoMemory where there is
    none for a single one."""
    try:
        return answer(batch)
    except NoMemory:
        if len(batch) < 2:
            raise
    # Not in the handler: its error keeps alive the tensors that took the memory.
    middle = len(batch) // 2
    return [*in_halves(batch[:middle], answer), *in_halves(batch[middle:], answer)]


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _machine(meminfo: Path) -> int | None:
    fields = _fields(meminfo)
    free = fields.get("MemAvailable:")
    return None if free is None else 1024 * (free + fields.get("SwapFree:", 0))


def _process(status: Path) -> int | None:
    try:
        rows = [line for line in (status / "limits").read_text().splitlines() if line.startswith(LIMIT_OF_PROCESS)]
        most = int(rows[0].removeprefix(LIMIT_OF_PROCESS).split()[0])
    except (OSError, ValueError, IndexError):  # no such file, or "unlimited"
        return None
    return max(0, most - 1024 * _fields(status / "status").get(USED_OF_PROCESS, 0))


def _containers(root: Path) -> Iterator[int | None]:
    """Of each control group that this process is in: every one limits all those in it."""
    for controller, folder, limit, used in CGROUPS:
        own = _path_of_cgroup(root / "proc/self/cgroup", controller)
        for path in (own, *own.parents):
            yield _container(root / folder / path, limit, used)


def _path_of_cgroup(table: Path, controller: str) -> Path:
    """Relative to the controller's folder; that folder itself where the table does not say. In a container's own
    namespace the path may lead nowhere: its parents are read all the same, the mounted folder last."""
    try:
        rows = [line.split(":", 2) for line in table.read_text().splitlines()]
    except OSError:
        return Path()
    paths = [row[2] for row in rows if len(row) == 3 and controller in row[1].split(",")]
    return Path(*(part for part in Path(paths[0]).parts if part not in ("/", ".."))) if paths else Path()


def _container(cgroup: Path, limit: str, used: str) -> int | None:
    try:
        most, now = int((cgroup / limit).read_text()), int((cgroup / used).read_text())
    except (OSError, ValueError):  # no such file, or "max"
        return None
    parts = _fields(cgroup / "memory.stat")
    # In version 1 the plain names are of this group alone, while what is used counts those in it too.
    reclaimable = (parts.get(f"total_{name}", parts.get(name, 0)) for name in RECLAIMABLE)
    return max(0, most - now + sum(reclaimable))


def _fields(file: Path) -> dict[str, int]:
    try:
        rows = [line.split() for line in file.read_text().splitlines()]
        return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdecimal()}
    except OSError:
        return {}
