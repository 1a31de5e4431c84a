"""The main job in figures: ``python -m benchmarks.main_job --json FILE [--quick] [--suite] [--part NAME ...]``.

Alarm in the first round after each fault, tokens, healthy rounds, memory, recovery after a killed broker, duration of
the demo; with --suite also of the whole test suite. Parts: faults, benign, footprint, memory, broker, demo.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from agent.demo.stage import set_up, write_config
from benchmarks.canaries import benign, first_round
from benchmarks.figures import Figure, arguments, at_most, console, context, exactly, report, stored_figures
from benchmarks.process import base_memory, footprint, kafka_return

ROOT = Path(__file__).resolve().parent.parent
EVERY_S = 60.0  # the default schedule: what the fleet's threshold is computed from
NOWHERE = "127.0.0.1:9"


def main() -> None:
    options = arguments(__doc__ or "")
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder:
        stage = set_up(Path(folder) / "world")
        config = write_config(stage, NOWHERE, f"http://{NOWHERE}", EVERY_S)
        for name, part in {
            "faults": lambda: first_round.measure(stage, config, options.quick),
            "benign": lambda: benign.measure(config, options.quick),
            "footprint": lambda: footprint.measure(options.quick),
            "memory": lambda: base_memory.measure(options.quick),
            "broker": _broker,
            "demo": _demo,
        }.items():
            if not options.part or name in options.part:
                console.print(f"{name} ...")
                figures += part()
    if options.suite:
        figures += _suite()
    measured_names = {figure.name for figure in figures}
    earlier_figures = [
        figure for figure in stored_figures(options.json) if options.part and figure.name not in measured_names
    ]
    report([*earlier_figures, *figures], first_round.SEED, options.json)


def _broker() -> list[Figure]:
    home = os.environ.get("KAFKA_HOME")
    if not home:
        console.print("no KAFKA_HOME: the killed broker is not measured")
        return []
    measured = kafka_return.measure(Path(home))
    return [
        at_most(
            "real Kafka killed with -9 under load: reading resumed after its return", measured["resumed_s"], "s", 5
        ),
        exactly("real Kafka killed with -9 under load: acknowledged records lost", measured["lost"], "records", 0),
        context("real Kafka killed with -9 under load: acknowledged", measured["acknowledged"], "records"),
    ]


def _demo() -> list[Figure]:
    """As ``make demo`` after the installation, with the converted base in the cache."""
    began = time.monotonic()
    folder = ROOT / ".gapwatch" / "bench" / "demo"
    done = subprocess.run(
        [sys.executable, "-m", "agent", "demo", "--folder", str(folder)], cwd=ROOT, capture_output=True
    )
    return [
        at_most("the demo after installation", time.monotonic() - began, "s", 240),
        exactly("the demo's exit code", done.returncode, "", 0),
    ]


def _suite() -> list[Figure]:
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "pytest", "-q"], cwd=ROOT, capture_output=True)
    return [
        at_most("the whole test suite", time.monotonic() - began, "s", 720),
        exactly("the test suite's exit code", done.returncode, "", 0),
    ]


if __name__ == "__main__":
    main()
