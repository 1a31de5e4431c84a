"""A benchmark in parts: each file of a package that has ``measure(quick)`` is one, by its name."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from types import ModuleType

from benchmarks.figures import Figure, arguments, console, report, save, stored_figures


def run(package: ModuleType, about: str, seed: int) -> None:
    """All parts, or those named by ``--part``, whose figures replace theirs in the file."""
    options = arguments(about)
    figures: list[Figure] = []
    earlier = stored_figures(options.json) if options.part else []
    for name, measure in parts(package).items():
        if not options.part or name in options.part:
            console.print(f"{name} ...")
            figures += measure(options.quick)
            save(_beside(earlier, figures), seed, options.json)  # a long run that fails keeps its first figures
    report(_beside(earlier, figures), seed, options.json)


def parts(package: ModuleType) -> dict[str, Callable[[bool], list[Figure]]]:
    """Name -> what measures it; files without ``measure`` are shared by others."""
    modules = {
        info.name: importlib.import_module(f"{package.__name__}.{info.name}")
        for info in pkgutil.iter_modules(package.__path__)
    }
    return {name: module.measure for name, module in modules.items() if hasattr(module, "measure")}


def _beside(earlier: Sequence[Figure], figures: Sequence[Figure]) -> list[Figure]:
    """What is not measured in this run stays as it was."""
    names = {figure.name for figure in figures}
    return [*(figure for figure in earlier if figure.name not in names), *figures]
