"""A figure, the machine it was seen on, and the form in which every benchmark tells both."""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson
from rich.console import Console
from rich.table import Table

console = Console(width=130)


@dataclass(frozen=True, slots=True)
class Figure:
    """One claim. target: what it was to reach, None for context; met: None where there is no target."""

    name: str
    value: float
    unit: str
    target: float | None = None
    met: bool | None = None


def at_most(name: str, value: float, unit: str, target: float) -> Figure:
    return Figure(name, value, unit, target, value <= target)


def at_least(name: str, value: float, unit: str, target: float) -> Figure:
    return Figure(name, value, unit, target, value >= target)


def exactly(name: str, value: float, unit: str, target: float) -> Figure:
    return Figure(name, value, unit, target, value == target)


def context(name: str, value: float, unit: str) -> Figure:
    return Figure(name, value, unit)


def machine() -> dict[str, object]:
    """Where the figures were seen; torch only where it is installed, and only its name."""
    has_torch = importlib.util.find_spec("torch") is not None
    torch_version, gpu = "", ""
    if has_torch:
        import torch

        torch_version = torch.__version__
        gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else ""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "gpu": gpu,
        "python": platform.python_version(),
        "torch": torch_version,
    }


def arguments(about: str) -> argparse.Namespace:
    """--json FILE and --quick, which every benchmark takes."""
    parser = argparse.ArgumentParser(description=about.split("\n")[0])
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--quick", action="store_true", help="a smaller run: the same figures, less certain")
    parser.add_argument("--part", action="append", help="only this part (main_job); the other figures in FILE stay")
    parser.add_argument("--suite", action="store_true", help="time the test suite too (main_job)")
    return parser.parse_args()


def held(file: Path | None) -> list[Figure]:
    """The figures that a file has now, none when there is no file."""
    if file is None or not file.exists():
        return []
    return [Figure(**figure) for figure in orjson.loads(file.read_bytes())["figures"]]


def report(figures: Sequence[Figure], seed: int, file: Path | None) -> None:
    """Print the table, misses first, and write the JSON."""
    ranked = sorted(figures, key=lambda figure: (figure.met is not False, figure.met is None))
    table = Table(
        header_style="bold", title=f"seen on {machine()['cpu']}, {machine()['cores']} cores", title_justify="left"
    )
    for heading in ("", "figure", "value", "unit", "target"):
        table.add_column(heading, justify="right" if heading in ("value", "target") else "left")
    for figure in ranked:
        mark = {True: "[green]met[/green]", False: "[red]MISSED[/red]", None: ""}[figure.met]
        table.add_row(
            mark, figure.name, f"{figure.value:.6g}", figure.unit, "" if figure.target is None else f"{figure.target:g}"
        )
    console.print(table)
    save(figures, seed, file)


def save(figures: Sequence[Figure], seed: int, file: Path | None) -> None:
    """The JSON alone, for a long run whose first figures should outlive its end; nothing without a file."""
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        told = {"figures": [asdict(figure) for figure in figures], "machine": machine(), "seed": seed}
        file.write_bytes(orjson.dumps(told, option=orjson.OPT_INDENT_2) + b"\n")


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
