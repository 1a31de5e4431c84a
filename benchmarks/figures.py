"""A measured figure, the machine it was measured on, and how every benchmark prints and stores both.

The JSON files in benchmarks/results/ have this form, and docs/results.md is generated from them: a figure that is
renamed here leaves its old name there until the benchmark runs again.
"""

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
    """One measured value. target: what it has to reach, None for context; met: None without a target."""

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
    """The machine of this run; torch and gpu are "" where torch is not installed."""
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
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="a smaller run: the same figures with less precision")
    parser.add_argument("--part", action="append", help="run only this part; the other figures in FILE stay")
    parser.add_argument("--suite", action="store_true", help="time the test suite too (main_job)")
    return parser.parse_args()


def stored_figures(file: Path | None) -> list[Figure]:
    """The figures in a file; none without a file."""
    if file is None or not file.exists():
        return []
    return [Figure(**figure) for figure in orjson.loads(file.read_bytes())["figures"]]


def report(figures: Sequence[Figure], seed: int, file: Path | None) -> None:
    """Print the table, misses first, and write the JSON."""
    ranked = sorted(figures, key=lambda figure: (figure.met is not False, figure.met is None))
    table = Table(
        header_style="bold", title=f"measured on {machine()['cpu']}, {machine()['cores']} cores", title_justify="left"
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
    """The JSON alone, so that a long run that fails keeps its first figures; nothing without a file."""
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        content = {"figures": [asdict(figure) for figure in figures], "machine": machine(), "seed": seed}
        file.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2) + b"\n")


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
