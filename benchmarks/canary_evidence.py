"""The canary evidence in figures: ``python -m benchmarks.canary_evidence --json FILE [--quick] [--part NAME ...]``.

On the zoo (24 small adapters on three small models, trained on first use: eight minutes on one thread), on another one
of fresh seeds for fresh_causes alone, and on the helpdesk's three. Parts: sensitivity, causes, strengths, fresh_causes,
coverage, false_pages, benign_tier, flapping, base_members, graded_tolerance, selection, run_length, speed, helpdesk.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from benchmarks.canaries import (
    base_members,
    benign_tier,
    confusion,
    coverage,
    evidence_speed,
    false_pages,
    flapping,
    fresh_causes,
    graded_tolerance,
    helpdesk_evidence,
    run_length,
    selection_gain,
    sensitivity,
    strengths,
)
from benchmarks.figures import Figure, arguments, console, report, stored_figures
from benchmarks.zoo.enrolled_base import SEED
from benchmarks.zoo.recipes import FRESH_SEEDS
from benchmarks.zoo.world import World


def main() -> None:
    options = arguments(__doc__ or "")
    figures: list[Figure] = []
    n_bases = 1 if options.quick else 3
    with (
        tempfile.TemporaryDirectory() as folder,
        World(Path(folder), bases=n_bases) as world,
        World(Path(folder) / "fresh", bases=n_bases, added_seed=FRESH_SEEDS) as fresh,
    ):
        for name, part in {
            "sensitivity": lambda: sensitivity.measure(world, options.quick),
            "causes": lambda: confusion.measure(world),
            "strengths": lambda: strengths.measure(world, options.quick),
            "fresh_causes": lambda: fresh_causes.measure(fresh),
            "coverage": lambda: coverage.measure(world, options.quick),
            "false_pages": lambda: false_pages.measure(world, options.quick),
            "benign_tier": lambda: benign_tier.measure(world, options.quick),
            "flapping": lambda: flapping.measure(options.quick),
            "base_members": lambda: base_members.measure(options.quick),
            "graded_tolerance": lambda: graded_tolerance.measure(world),
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
