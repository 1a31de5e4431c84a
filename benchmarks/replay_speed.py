"""How fast are canaries replayed and responses scored, and what does a faster kernel cost in precision?

`python -m benchmarks.replay_speed --json FILE [--part precision] [--part replay] [--part scoring] [--part gpu]
[--quick]`. The first three on the CPU, on SmolLM2 and the example's adapters; the last one on a card, and without one
its figures are reported as not measured. --quick, or TINY=1, runs all of it small, the stages of the card too, to see
that it runs; its figures mean nothing. Speeds want a quiet machine.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping

import torch
import transformers

from benchmarks.figures import Figure, arguments, report, save, stored_figures
from benchmarks.gpu.card import TINY, WHOLE
from benchmarks.speed import on_card, on_cpu, precision
from benchmarks.traffic.served import open_runner

SEED = 0
Part = Callable[[bool], Iterator[Figure]]


def _of_precision(quick: bool) -> Iterator[Figure]:
    runner = open_runner()
    yield from precision.figures(runner.loaded.golden_model(), quick)
    runner.close()


def _of_replay(quick: bool) -> Iterator[Figure]:
    runner = open_runner()
    yield from on_cpu.replayed(runner, quick)
    runner.close()


def _of_scoring(quick: bool) -> Iterator[Figure]:
    runner = open_runner()
    yield from on_cpu.scored(runner, quick)
    runner.close()


def _of_card(quick: bool) -> Iterator[Figure]:
    if quick:
        yield from on_card.figures(TINY)
    elif torch.cuda.is_available():
        yield from on_card.figures(WHOLE)
    else:
        yield from on_card.without_a_card()


PARTS: Mapping[str, Part] = {
    "precision": _of_precision,
    "replay": _of_replay,
    "scoring": _of_scoring,
    "gpu": _of_card,
}


def main() -> int:
    options = arguments(__doc__ or "")
    quick = options.quick or bool(os.environ.get("TINY"))
    transformers.logging.set_verbosity_error()
    figures = {figure.name: figure for figure in stored_figures(options.json)}
    for name in options.part or PARTS:
        for figure in PARTS[name](quick):
            figures[figure.name] = figure
            save(list(figures.values()), SEED, options.json)
    report(list(figures.values()), SEED, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
