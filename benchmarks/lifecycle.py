"""Before a base is swapped, and after: ``python -m benchmarks.lifecycle --json FILE [--quick] [--part NAME ...]``.

Each file in benchmarks/lifecycle_parts/ is a part, by its name: check (the class of an adapter on a base by headers,
against what PEFT does), predicted (retention by the weights, against replays), bisect (planted changes of a base).
With OMP_NUM_THREADS=1: the models are small. Exit code 0: all of it ran, whatever it showed.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence

from benchmarks import lifecycle_parts
from benchmarks.figures import Figure, arguments, console, report, save, stored_figures

SEED = 0


def main() -> None:
    options = arguments(__doc__ or "")
    figures: list[Figure] = []
    earlier = stored_figures(options.json) if options.part else []
    for name, measure in parts().items():
        if not options.part or name in options.part:
            console.print(f"{name} ...")
            figures += measure(options.quick)
            save(_beside(earlier, figures), SEED, options.json)  # a long run that fails keeps its first figures
    report(_beside(earlier, figures), SEED, options.json)


def parts() -> dict[str, Callable[[bool], list[Figure]]]:
    """Name -> what measures it; files without ``measure`` are shared by others."""
    modules = {
        info.name: importlib.import_module(f"{lifecycle_parts.__name__}.{info.name}")
        for info in pkgutil.iter_modules(lifecycle_parts.__path__)
    }
    return {name: module.measure for name, module in modules.items() if hasattr(module, "measure")}


def _beside(earlier: Sequence[Figure], figures: Sequence[Figure]) -> list[Figure]:
    """What is not measured in this run stays as it was."""
    names = {figure.name for figure in figures}
    return [*(figure for figure in earlier if figure.name not in names), *figures]


if __name__ == "__main__":
    main()
