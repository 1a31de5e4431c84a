"""The canary evidence in figures: ``python -m benchmarks.canary_evidence --json FILE [--quick] [--part NAME ...]``.

On the zoo (24 small trained adapters on three small models, trained when first asked for: eight minutes on one thread)
and on the helpdesk's three. Parts: sensitivity, causes, coverage, false_pages, selection, run_length, speed, helpdesk.
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
)
from benchmarks.figures import Figure, arguments, console, held, report
from benchmarks.zoo.stall import SEED
from benchmarks.zoo.world import World


def main() -> None:
    told = arguments(__doc__ or "")
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder, World(Path(folder), bases=1 if told.quick else 3) as world:
        for name, part in {
            "sensitivity": lambda: sensitivity.measure(world, told.quick),
            "causes": lambda: confusion.measure(world),
            "coverage": lambda: coverage.measure(world, told.quick),
            "false_pages": lambda: false_pages.measure(world, told.quick),
            "selection": lambda: selection_gain.measure(world, told.quick),
            "run_length": lambda: run_length.measure(told.quick),
            "speed": lambda: evidence_speed.measure(told.quick),
            "helpdesk": lambda: helpdesk_evidence.measure(told.quick),
        }.items():
            if not told.part or name in told.part:
                began = time.monotonic()
                figures += part()
                console.print(f"{name}: {time.monotonic() - began:.0f} s")
    again = {figure.name for figure in figures}
    kept = [figure for figure in held(told.json) if told.part and figure.name not in again]
    report([*kept, *figures], SEED, told.json)


if __name__ == "__main__":
    main()
