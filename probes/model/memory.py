"""Is there memory for it, and what becomes of what torch and Python raise where there is none."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from probes.errors import NoMemory, Unreplayable

Asked = TypeVar("Asked")
Answered = TypeVar("Answered")

# What torch's allocators say; only CUDA's have a class of their own.
WORDS = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
# (limit, used, file with the share that can be had back): cgroup v2, then v1.
CGROUPS = (
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)
# What a container's use holds of files and of the kernel's tables of them, and is given back before anything is ended.
# Active pages too: a base that was read twice, to be hashed and to be run, is nothing else.
GIVEN_BACK = ("inactive_file", "active_file", "slab_reclaimable")


@contextmanager
def failures(path: str, asked: int = 0) -> Iterator[None]:
    """Turns what torch raises into Unreplayable with the first line of its reason, and into NoMemory where that is it.

    asked: bytes that are needed in there, 0 where nobody has counted them
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        reason = _first_line(error) or type(error).__name__
        raise no_memory(path, error, asked) or Unreplayable(path, f"cannot be run: {reason}") from error


def no_memory(path: str, error: Exception, asked: int = 0) -> NoMemory | None:
    """What this error says of memory, None where it is about something else. asked: as in ``failures``"""
    if not isinstance(error, MemoryError) and not any(word in str(error) for word in WORDS):
        return None
    words = _first_line(error)
    told = re.search(r"tried to allocate (\d+) bytes", words)
    if told or isinstance(error, MemoryError):
        return NoMemory(path, asked or int(told[1] if told else 0), free_bytes())
    # A device's words hold how much was asked for and how much was free; what follows is advice on its allocator.
    return NoMemory(path, asked, device_message=words.partition(" Including ")[0])


def check_room(path: str, asked: int, root: Path = Path("/")) -> None:
    """Raises NoMemory where so many bytes are more than this process can have. Asked for before they are taken: beyond
    a container's limit no error is raised, the process is ended."""
    free = free_bytes(root)
    if free is not None and asked > free:
        raise NoMemory(path, asked, free)


def free_bytes(root: Path = Path("/")) -> int | None:
    """Host memory that this process may still take, by the machine and by its container; None where neither tells."""
    found = [_machine(root / "proc/meminfo"), *(_container(root / "sys/fs/cgroup", *files) for files in CGROUPS)]
    return min((free for free in found if free is not None), default=None)


def in_halves(batch: Sequence[Asked], answer: Callable[[Sequence[Asked]], list[Answered]]) -> list[Answered]:
    """The answers to a batch, in smaller ones where there is no memory for all of it. Raises NoMemory where there is
    none for a single one."""
    try:
        return answer(batch)
    except NoMemory:
        if len(batch) < 2:
            raise
    # Here and not in the handler, whose error holds the tensors that there was no room for.
    middle = len(batch) // 2
    return [*in_halves(batch[:middle], answer), *in_halves(batch[middle:], answer)]


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _machine(meminfo: Path) -> int | None:
    fields = _fields(meminfo)
    free = fields.get("MemAvailable:")
    return None if free is None else 1024 * (free + fields.get("SwapFree:", 0))


def _container(cgroup: Path, limit: str, used: str, stat: str) -> int | None:
    try:
        most, now = int((cgroup / limit).read_text()), int((cgroup / used).read_text())
    except (OSError, ValueError):  # no such file, or "max"
        return None
    told = _fields(cgroup / stat)
    return max(0, most - now + sum(told.get(name, 0) for name in GIVEN_BACK))


def _fields(file: Path) -> dict[str, int]:
    try:
        rows = [line.split() for line in file.read_text().splitlines()]
        return {row[0]: int(row[1]) for row in rows if len(row) > 1}
    except (OSError, ValueError):
        return {}
