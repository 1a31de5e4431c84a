"""What watching costs and adapters are worth: ``python -m benchmarks.economics --json FILE [--quick] [--part NAME]``.

Each file in benchmarks/economics_parts/ is a part, by its name: retire (releases of the zoo's bases that have and have
not learnt an adapter's task), few_shot (the helpdesk's adapters beside their base with examples; goes on where it was),
own_cost (the store of a ``gapwatch demo``, by default that of .gapwatch/demo here; GAPWATCH_DEMO names another).
With OMP_NUM_THREADS=1. Exit code 0: all of it ran, whatever it showed.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from benchmarks import economics_parts
from benchmarks.figures import Figure, arguments, console, report, save, stored_figures

SEED = 0
PARTS = ("retire", "few_shot", "own_cost")


def main() -> None:
    options = arguments(__doc__ or "")
    figures: list[Figure] = []
    earlier = stored_figures(options.json) if options.part else []
    for name in PARTS:
        if not options.part or name in options.part:
            console.print(f"{name} ...")
            figures += importlib.import_module(f"{economics_parts.__name__}.{name}").measure(options.quick)
            save(_beside(earlier, figures), SEED, options.json)  # a long run that fails keeps its first figures
    report(_beside(earlier, figures), SEED, options.json)


def _beside(earlier: Sequence[Figure], figures: Sequence[Figure]) -> list[Figure]:
    """What is not measured in this run stays as it was."""
    names = {figure.name for figure in figures}
    return [*(figure for figure in earlier if figure.name not in names), *figures]


if __name__ == "__main__":
    main()
