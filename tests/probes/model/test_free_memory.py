"""Free memory, read from files as the kernel writes them, and errors that are about memory."""

from __future__ import annotations

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


def test_the_pages_of_files_in_a_container_are_free_memory(tmp_path: Path) -> None:
    """A base that was read twice is in active pages: a limit reached by them is none."""
    stat = "anon 100000\nactive_file 250000\ninactive_file 50000\nslab_reclaimable 1000\nshmem 30000\n"
    files = {"memory.max": "500000\n", "memory.current": "500000\n", "memory.stat": stat}
    assert free_bytes(machine(tmp_path, **{f"sys/fs/cgroup/{name}": text for name, text in files.items()})) == 301_000


@pytest.mark.parametrize(
    ("table", "group", "limit", "used"),
    [
        ("0::/kubepods/pod1/box\n", "", "memory.max", "memory.current"),
        (
            "5:cpu:/elsewhere\n4:memory:/kubepods/pod1/box\n0::/\n",
            "memory/",
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
        ),
    ],
)
def test_every_group_that_the_process_is_in_limits_it(
    tmp_path: Path, table: str, group: str, limit: str, used: str
) -> None:
    pod, box = (f"sys/fs/cgroup/{group}kubepods/pod1{inner}/" for inner in ("", "/box"))
    files = {
        "proc/self/cgroup": table,
        pod + limit: "400000\n",
        pod + used: "330000\n",
        pod + "memory.stat": "inactive_file 5\ntotal_inactive_file 20000\n" if group else "inactive_file 20000\n",
        box + limit: "max\n",
    }
    assert free_bytes(machine(tmp_path, **files)) == 90_000
    assert free_bytes(machine(tmp_path, **files | {box + limit: "300000\n", box + used: "250000\n"})) == 50_000


def test_a_group_whose_path_is_that_of_another_namespace_is_the_mounted_one(tmp_path: Path) -> None:
    mounted = {"memory.max": "400000\n", "memory.current": "300000\n"}
    files = {f"sys/fs/cgroup/{name}": text for name, text in mounted.items()}
    for path in ("/../../kubepods/pod1", "/"):
        assert free_bytes(machine(tmp_path, **files, **{"proc/self/cgroup": f"0::{path}\n"})) == 100_000


def test_a_process_gets_no_more_than_its_own_limit_of_data(tmp_path: Path) -> None:
    limits = "Limit                 Soft Limit       Hard Limit       Units\nMax data size         {} {} bytes\n"
    status = {"proc/self/status": "Name:\tpython\nVmPeak:\t 900 kB\nVmData:\t     300 kB\n"}
    limited = {"proc/self/limits": limits.format("512000   ", "unlimited")}
    assert free_bytes(machine(tmp_path, **status, **limited)) == 512_000 - 300 * 1024
    unlimited = {"proc/self/limits": limits.format("unlimited", "unlimited")}
    assert free_bytes(machine(tmp_path, **status, **unlimited)) == 700 * 1024


def test_more_than_there_is_is_refused_before_it_is_taken(tmp_path: Path) -> None:
    root = machine(tmp_path)
    check_free("/adapters/a", 700 * 1024, root)
    with pytest.raises(NoMemory, match=r"/a: not enough memory: 2 MB requested, 717 kB free, 1\.28 MB more needed"):
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
