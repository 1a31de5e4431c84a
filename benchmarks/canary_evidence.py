"""The canary evidence in figures: ``python -m benchmarks.canary_evidence --json FILE [--quick] [--part NAME ...]``.

On the zoo (24 small adapters on three small models, trained on first use: eight minutes on one thread) and on the
helpdesk's three. Parts: sensitivity, causes, strengths, coverage, false_pages, selection, run_length, speed, helpdesk.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from benchmarks.canaries import (
    confusion,
    coverage,
    evidence_speed,
    false_pages,
    helpdesk_evidence,
    run_length,
    selection_gain,
    sensitivity,
    strengths,
)
from benchmarks.figures import Figure, arguments, console, report, stored_figures
from benchmarks.zoo.enrolled_base import SEED
from benchmarks.zoo.world import World


def main() -> None:
    options = arguments(__doc__ or "")
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder, World(Path(folder), bases=1 if options.quick else 3) as world:
        for name, part in {
            "sensitivity": lambda: sensitivity.measure(world, options.quick),
            "causes": lambda: confusion.measure(world),
            "strengths": lambda: strengths.measure(world, options.quick),
            "coverage": lambda: coverage.measure(world, options.quick),
            "false_pages": lambda: false_pages.measure(world, options.quick),
            "selection": lambda: selection_gain.measure(world, options.quick),
            "run_length": lambda: run_length.measure(options.quick),
            "speed": lambda: evidence_speed.measure(options.quick),
            "helpdesk": lambda: helpdesk_evidence.measure(options.quick),
        }.items():
            if not options.part or name in options.part:
                began = time.monotonic()
                figures += part()
                console.print(f"{name}: {time.monotonic() - began:.0f} s")
    measured_names = {figure.name for figure in figures}
    earlier_figures = [
        figure for figure in stored_figures(options.json) if options.part and figure.name not in measured_names
    ]
    report([*earlier_figures, *figures], SEED, options.json)


if __name__ == "__main__":
    main()
