"""docs/results.md, generated from the JSON files of the benchmarks: ``python -m benchmarks.results_page``.

A test compares the committed page with what this generates.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

ROOT = Path(__file__).resolve().parent.parent
PAGE, RESULTS = ROOT / "docs" / "results.md", ROOT / "benchmarks" / "results"
HEADING = "| figure | value | target | |\n|---|---|---|---|"
INTRODUCTION = """# Results

Every figure that this project claims, what was missed first. Written by `python -m benchmarks.results_page` from the
files in `benchmarks/results/`; nothing here is typed by hand. Each table names the command and the machine; each file
under `benchmarks/` says how its figures are measured and what they rest on, and
[how figures are checked](mathematics.md#how-figures-are-checked) says why they could have failed.

`make figures` runs `main_job` and `canary_evidence` and writes this page again. `traffic_evidence` takes hours on a CPU
and is run apart, as are `sampling_speed`, which needs a Kafka, and `replay_on_gpu`, which needs a card. "Zoo" is 24
small adapters, trained when first asked for, on three small models, so that no figure of the canaries rests on the
three adapters of the example.
"""


def main() -> None:
    PAGE.write_text(page(sorted(RESULTS.glob("*.json"))))


def page(files: Sequence[Path]) -> str:
    """The whole page: all missed targets, and then one section per benchmark."""
    sections = (f"## {file.stem}\n\n{section(file)}" for file in files)
    return "\n".join([INTRODUCTION, _missed(files), *sections])


def section(file: Path) -> str:
    """One benchmark with command and machine: a table of the figures with a target, misses first; the rest folded."""
    content = orjson.loads(file.read_bytes())
    machine = content["machine"]
    figures = sorted(content["figures"], key=lambda figure: figure["met"] is not False)
    claims = [_row(figure) for figure in figures if figure["met"] is not None]
    context = [_row(figure) for figure in figures if figure["met"] is None]
    parts = (
        machine["cpu"],
        f"{machine['cores']} cores",
        machine["gpu"] or "no GPU",
        f"Python {machine['python']}",
        f"torch {machine['torch']}",
    )
    where = ", ".join(parts)
    head = f"`python -m benchmarks.{file.stem}`, seen on {where}:\n"
    folded = f"<details><summary>{len(context)} figures beside them</summary>\n"
    return "\n".join([head, HEADING, *claims, "", folded, HEADING, *context, "", "</details>", ""])


def _missed(files: Sequence[Path]) -> str:
    """Every target that was missed, with its benchmark."""
    missed = [
        (file.stem, figure)
        for file in files
        for figure in orjson.loads(file.read_bytes())["figures"]
        if figure["met"] is False
    ]
    rows = [f"| {name} {_row(figure, marked=False)}" for name, figure in missed]
    table = "\n".join(["| benchmark | figure | value | target |\n|---|---|---|---|", *rows])
    return f"## Missed\n\n{table if rows else 'Nothing.'}\n"


def _row(figure: dict[str, Any], marked: bool = True) -> str:
    mark = {True: "met", False: "**missed**", None: ""}[figure["met"]]
    target = "" if figure["target"] is None else f"{figure['target']:g}"
    name = figure["name"].replace("|", "\\|")
    return f"| {name} | {figure['value']:.4g} {figure['unit']} | {target} |{f' {mark} |' if marked else ''}"


if __name__ == "__main__":
    main()
