"""A measured figure, the machine it was measured on, and how every benchmark prints and stores both.

The JSON files in benchmarks/results/ have this form, and docs/results.md is generated from them: a figure that is
renamed here leaves its old name there until the benchmark runs again. Fields after ``met`` are written where they are
known; files written before there was such a field are read as they are.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table
from scipy.stats import beta

console = Console(width=130)
ALWAYS_WRITTEN = ("name", "value", "unit", "target", "met")


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value.

    target: what it has to reach, None for context; met: None without a target
    commit: short hash of the tree that was measured, with "+" where files differed from it; "" for not recorded
    interval: 95 % of the value, in its own unit, where it is a share of so many cases; None for not computed
    """

    name: str
    value: float
    unit: str
    target: float | None = None
    met: bool | None = None
    commit: str = field(default="", compare=False)
    interval: tuple[float, float] | None = None


def at_most(name: str, value: float, unit: str, target: float) -> Figure:
    return Figure(name, value, unit, target, value <= target, measured_tree())


def at_least(name: str, value: float, unit: str, target: float) -> Figure:
    return Figure(name, value, unit, target, value >= target, measured_tree())


def exactly(name: str, value: float, unit: str, target: float) -> Figure:
    return Figure(name, value, unit, target, value == target, measured_tree())


def context(name: str, value: float, unit: str) -> Figure:
    return Figure(name, value, unit, commit=measured_tree())


def share(name: str, hits: int, cases: int, target: float | None = None) -> Figure:
    """hits / cases in per cent, with its 95 % interval. target: the least per cent wanted, None for context."""
    percent = 100 * hits / cases
    figure = context(name, percent, "%") if target is None else at_least(name, percent, "%", target)
    low, high = binomial_interval(hits, cases)
    return replace(figure, interval=(100 * low, 100 * high))


def binomial_interval(hits: int, cases: int) -> tuple[float, float]:
    """95 % interval of a chance, from how often it came true.

    Null hypothesis: the cases are independent and each has that chance. Guarantee: it covers with at least 95 %.
    What breaks it: cases that depend on each other, as several faults of one adapter do; then it is too narrow.
    Source: Clopper & Pearson (1934), Biometrika 26.
    """
    low = float(beta.ppf(0.025, hits, cases - hits + 1)) if hits else 0.0
    high = float(beta.ppf(0.975, hits + 1, cases - hits)) if hits < cases else 1.0
    return low, high


@cache
def measured_tree() -> str:
    """Short hash of the commit this runs from, with "+" where files differ from it; "" outside a repository."""
    here = Path(__file__).resolve().parent.parent

    def git(*command: str) -> str:
        return subprocess.run(["git", "-C", str(here), *command], capture_output=True, text=True, check=True).stdout

    try:
        # What a benchmark writes is no part of what it measures.
        is_changed = git("status", "--porcelain", "--", ".", ":!benchmarks/results", ":!docs/results.md").strip()
        return git("rev-parse", "--short=7", "HEAD").strip() + ("+" if is_changed else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def machine() -> dict[str, object]:
    """The machine of this run and the tree it measured; torch and gpu are "" where torch is not installed."""
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
        "commit": measured_tree(),
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
    return [_read(row) for row in orjson.loads(file.read_bytes())["figures"]]


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
        content = {"figures": [_row(figure) for figure in figures], "machine": machine(), "seed": seed}
        file.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2) + b"\n")


def _row(figure: Figure) -> dict[str, Any]:
    return {name: value for name, value in asdict(figure).items() if name in ALWAYS_WRITTEN or value}


def _read(row: dict[str, Any]) -> Figure:
    interval = row.get("interval")
    value = math.nan if row["value"] is None else row["value"]  # JSON has neither infinity nor that
    return Figure(**{**row, "value": value, "interval": tuple(interval) if interval else None})


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
