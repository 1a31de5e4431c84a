"""What the monitor costs what it watches: ``python -m benchmarks.harmless --json FILE [--quick] [--part NAME ...]``.

Parts: process (memory, threads, answers, time to end), light roles and model roles (idle memory of those without and
with models), fleet (pages for each fault, records of two releases), node (seconds in which a pod was not Ready, for
each fault; needs root and a kubelet, as `make test-node` does). Peak memory against its budget is a part of
benchmarks.main_job. What cannot be measured here is named. Exit code 0: all of it ran, whatever it showed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.figures import Figure, arguments, console, report, save, stored_figures
from benchmarks.node import costs
from benchmarks.node.single_node import unavailable
from benchmarks.process import beside_an_engine, fleet, roles

SEED = 0


def main() -> None:
    options = arguments(__doc__ or "")
    figures: list[Figure] = []
    earlier = stored_figures(options.json) if options.part else []
    parts: dict[str, Callable[[bool], list[Figure]]] = {
        "process": beside_an_engine.measure,
        "light roles": roles.measure_light,
        "model roles": roles.measure_with_models,
        "fleet": fleet.measure,
        "node": _node,
    }
    for name, measure in parts.items():
        if not options.part or name in options.part:
            console.print(f"{name} ...")
            figures += measure(options.quick)
            save(figures, SEED, options.json)  # a long run that fails keeps its first figures
    names = {figure.name for figure in figures}
    kept = [figure for figure in earlier if figure.name not in names]
    report([*kept, *figures], SEED, options.json)


def _node(quick: bool) -> list[Figure]:
    why = unavailable()
    if why:
        console.print(f"not measured: what each fault costs a pod ({why})")
        return []
    with tempfile.TemporaryDirectory() as folder:
        return costs.measure(Path(folder), quick)


if __name__ == "__main__":
    main()
