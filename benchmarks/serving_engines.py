"""What is served, watched over HTTP: ``python -m benchmarks.serving_engines --json FILE [--quick] [--part NAME ...]``.

Parts: faults (inside an engine, named or not), validity (is the way of asking itself true?), llama_cpp (its real
server: scales set wrongly), healthy (the same in benign configurations: pages in 1,000 rounds), load (what the engine's
users notice), vllm (a real one; VLLM_HOME as of `make test-engines`). The first two are measured on the server of
tests/serving_engines, whose faults are switched on. What cannot be measured here is named. Exit code 0: all of it ran,
whatever it showed. With OMP_NUM_THREADS=1: the toy language's matrices are too small for two threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.engines import faults, healthy, llama_cpp, load, validity, vllm
from benchmarks.figures import Figure, arguments, console, report, save, stored_figures

SEED = 0


def main() -> None:
    options = arguments(__doc__ or "")
    figures: list[Figure] = []
    earlier = stored_figures(options.json) if options.part else []
    parts: dict[str, Callable[[bool], list[Figure]]] = {
        "faults": faults.measure,
        "validity": validity.measure,
        "llama_cpp": llama_cpp.measure,
        "healthy": healthy.measure,
        "load": load.measure,
        "vllm": vllm.measure,
    }
    for name, measure in parts.items():
        if not options.part or name in options.part:
            console.print(f"{name} ...")
            figures += measure(options.quick)
            save(_beside(earlier, figures), SEED, options.json)  # a long run that fails keeps its first figures
    report(_beside(earlier, figures), SEED, options.json)


def _beside(earlier: Sequence[Figure], figures: Sequence[Figure]) -> list[Figure]:
    """What is not measured in this run stays as it was."""
    names = {figure.name for figure in figures}
    return [*(figure for figure in earlier if figure.name not in names), *figures]


if __name__ == "__main__":
    main()
