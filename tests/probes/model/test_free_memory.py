"""Free memory, read from files as the kernel writes them, and errors that are about memory."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from probes.errors import NoMemory, Unreplayable
from probes.model.free_memory import check_free, free_bytes, in_halves, memory_errors, no_memory

CUDA = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which 18.00 GiB is "
    "free. Including non-PyTorch memory, this process has 61.00 GiB memory in use."
)
CPU = (
    "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate 5000 bytes."
)


def machine(root: Path, **files: str) -> Path:
    for name, text in {"proc/meminfo": "MemTotal: 900 kB\nMemAvailable: 600 kB\nSwapFree: 100 kB\n", **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_a_machine_gives_what_is_available_and_its_swap(tmp_path: Path) -> None:
    assert free_bytes(machine(tmp_path)) == 700 * 1024
    assert free_bytes(tmp_path / "no such machine") is None


@pytest.mark.parametrize(
    ("limit", "used", "stat"),
    [
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ],
)
def test_a_container_gives_less_than_its_machine(tmp_path: Path, limit: str, used: str, stat: str) -> None:
    cgroup = "sys/fs/cgroup/"
    files = {cgroup + used: "400000\n", cgroup + stat: "anon 300000\ninactive_file 50000\n"}
    assert free_bytes(machine(tmp_path, **files, **{cgroup + limit: "500000\n"})) == 150_000
    assert free_bytes(machine(tmp_path, **{cgroup + limit: "300000\n"})) == 0
    assert free_bytes(machine(tmp_path, **{cgroup + limit: "max\n"})) == 700 * 1024


def test_a_process_with_a_limit_of_its_own_has_what_it_has_not_mapped_yet(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    root = machine(tmp_path, **{"proc/self/status": "VmPeak:\t 900 kB\nVmData:\t 399999900 kB\n"})
    resource.setrlimit(resource.RLIMIT_DATA, (400_000_000 * 1024, before[1]))
    try:
        assert free_bytes(root) == 100 * 1024
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
    assert free_bytes(root) == 700 * 1024


def test_the_pages_of_files_in_a_container_are_free_memory(tmp_path: Path) -> None:
    """A base that was read twice is in active pages: a limit reached by them is none."""
    stat = "anon 100000\nactive_file 250000\ninactive_file 50000\nslab_reclaimable 1000\nshmem 30000\n"
    files = {"memory.max": "500000\n", "memory.current": "500000\n", "memory.stat": stat}
    assert free_bytes(machine(tmp_path, **{f"sys/fs/cgroup/{name}": text for name, text in files.items()})) == 301_000


def test_more_than_there_is_is_refused_before_it_is_taken(tmp_path: Path) -> None:
    root = machine(tmp_path)
    check_free("/adapters/a", 700 * 1024, root)
    with pytest.raises(NoMemory, match="/adapters/a: not enough memory: 2 MB requested, 717 kB free"):
        check_free("/adapters/a", 2_000_000, root)
    check_free("/adapters/a", 1 << 60, tmp_path / "no such machine")


def test_what_an_error_says_of_memory_is_said_again() -> None:
    on_device = no_memory("a", torch.OutOfMemoryError(CUDA))
    assert on_device is not None
    assert on_device.why == f"not enough memory: {CUDA.partition(' Including')[0]}"
    on_host = no_memory("a", RuntimeError(CPU))
    assert (
        on_host is not None
        and on_host.requested == 5000
        and on_host.why.startswith("not enough memory: 5 kB requested, ")
    )
    counted = no_memory("a", MemoryError(), requested=7_000_000_000)
    assert counted is not None and "7 GB requested" in counted.why
    assert no_memory("a", RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None


def test_an_error_about_something_else_stays_one(tmp_path: Path) -> None:
    with (
        pytest.raises(Unreplayable, match=r"cannot be run: shapes do not fit$") as raised,
        memory_errors(str(tmp_path)),
    ):
        raise RuntimeError("shapes do not fit\nand more")
    assert not isinstance(raised.value, NoMemory)


def test_a_batch_is_halved_until_it_fits_and_keeps_its_order() -> None:
    sizes: list[int] = []

    def twice(batch: Sequence[int]) -> list[int]:
        sizes.append(len(batch))
        if len(batch) > 2:
            raise NoMemory("batch", 100, 10)
        return [2 * number for number in batch]

    assert in_halves(range(7), twice) == [0, 2, 4, 6, 8, 10, 12]
    assert sizes == [7, 3, 1, 2, 4, 2, 2]


def test_a_single_one_that_does_not_fit_is_told() -> None:
    def never(batch: Sequence[int]) -> list[int]:
        raise NoMemory("batch", 100 * len(batch), 10)

    with pytest.raises(NoMemory, match="100 B requested, 10 B free"):
        in_halves([1, 2, 3], never)
