"""docs/results.md, generated from the JSON files of the benchmarks: ``python -m benchmarks.results_page``.

A test compares the committed page with what this generates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import orjson

ROOT = Path(__file__).resolve().parent.parent
PAGE, RESULTS = ROOT / "docs" / "results.md", ROOT / "benchmarks" / "results"
# One file for each earlier commit, named by it: what the same benchmark measured there.
BEFORE = RESULTS / "before"
HEADING = "| figure | value | before | target | | measured at |\n|---|---|---|---|---|---|"
NOT_RECORDED = "4bb2d88 or before"
NOT_MEASURED = "not measured"  # the unit of a figure whose machine was not at hand
INTRODUCTION = """# Results

Every figure that this project claims, what was missed first. Written by `python -m benchmarks.results_page` from the
files in `benchmarks/results/`; nothing here is typed by hand. Each table names the command and the machine; each file
under `benchmarks/` says how its figures are measured and what they rest on, and
[how figures are checked](mathematics.md#how-figures-are-checked) says why they could have failed.

Of the 72 sets of responses behind `traffic_evidence` 33 were drawn and scored on an H100 in float32, the others on the
CPU; the figures are computed from them on the CPU. Its peers Evidently and Model Equality Testing were not run again.

`make figures` runs `main_job` and `canary_evidence` and writes this page again. `traffic_evidence` takes hours on a CPU
and is run apart, as are `sampling_speed`, which needs a Kafka, `replay_on_gpu`, which needs a card, `harmless`, which
needs a kubelet for its third part, `replay_speed`, which needs a card for its last part, and `serving_engines`, which
needs a vLLM for its last one. "Zoo" is 24
small adapters, trained when first asked for, on three small models, so that no figure of the canaries rests on the
three adapters of the example.

*Measured at* is the commit whose tree was measured, with a plus where files differed from it; a figure speaks of the
rules of that commit. Younger than a493096 are canaries scored on their first positions, curves of the strengths that
are needed, noise floors from twelve canaries, signatures made after an alarm, responses scored by their first tokens,
evidence of single alternatives, and drift in banks; figures of 5c7049a and later (aec2cc0, 48512b2, a4effdf, 73e9986)
were measured with all of these. Those whose commit was not recorded were measured at 4bb2d88 or before, when there were
besides one tolerance for every canary, however far its base had moved, and incidents that ended after two good rounds
whatever the evidence. *Before* is what the same benchmark measured at an earlier commit, which is named beside it; a
figure that now counts other cases has another name, and its former value is in `benchmarks/results/before/`. In
parentheses behind a share: its 95 % interval (Clopper & Pearson), which takes the cases for independent.
"""


Before = Mapping[str, str]


def main() -> None:
    PAGE.write_text(page(sorted(RESULTS.glob("*.json")), values_before(sorted(BEFORE.glob("*.json")))))


def page(files: Sequence[Path], before: Before = MappingProxyType({})) -> str:
    """The whole page: all missed targets, and then one section per benchmark. before: figure -> value and commit."""
    sections = (f"## {file.stem}\n\n{section(file, before)}" for file in files)
    return "\n".join([INTRODUCTION, _missed(files, before), *sections])


def values_before(files: Sequence[Path]) -> dict[str, str]:
    """Name of a figure -> its value at the commit that the file is named by, the last file's where several have it."""
    rows = ((file.stem, figure) for file in files for figure in orjson.loads(file.read_bytes())["figures"])
    return {figure["name"]: f"{_value(figure).rstrip()} ({commit})" for commit, figure in rows}


def section(file: Path, before: Before = MappingProxyType({})) -> str:
    """One benchmark with command and machine: a table of the figures with a target, misses first; the rest folded."""
    content = orjson.loads(file.read_bytes())
    machine = content["machine"]
    figures = sorted(content["figures"], key=lambda figure: figure["met"] is not False)
    claims = [_row(figure, before) for figure in figures if figure["met"] is not None]
    context = [_row(figure, before) for figure in figures if figure["met"] is None]
    parts = (
        machine["cpu"],
        f"{machine['cores']} cores",
        machine["gpu"] or "no GPU",
        f"Python {machine['python']}",
        f"torch {machine['torch']}",
    )
    where = ", ".join(parts)
    head = f"`python -m benchmarks.{file.stem}`, measured on {where}:\n"
    folded = f"<details><summary>{len(context)} figures beside them</summary>\n"
    return "\n".join([head, HEADING, *claims, "", folded, HEADING, *context, "", "</details>", ""])


def _missed(files: Sequence[Path], before: Before) -> str:
    """Every target that was missed, with its benchmark."""
    missed = [
        (file.stem, figure)
        for file in files
        for figure in orjson.loads(file.read_bytes())["figures"]
        if figure["met"] is False
    ]
    rows = [f"| {name} {_row(figure, before, marked=False)}" for name, figure in missed]
    heading = "| benchmark | figure | value | before | target | measured at |\n|---|---|---|---|---|---|"
    table = "\n".join([heading, *rows])
    return f"## Missed\n\n{table if rows else 'Nothing.'}\n"


def _row(figure: dict[str, Any], before: Before, marked: bool = True) -> str:
    mark = {True: "met", False: "**missed**", None: ""}[figure["met"]]
    target = "" if figure["target"] is None else f"{figure['target']:g}"
    cells = [
        figure["name"].replace("|", "\\|"),
        _value(figure),
        before.get(figure["name"], ""),
        target,
        *([mark] if marked else []),
        "" if figure["unit"] == NOT_MEASURED else figure.get("commit") or NOT_RECORDED,
    ]
    return f"| {' | '.join(cells)} |"


def _value(figure: dict[str, Any]) -> str:
    if figure["unit"] == NOT_MEASURED:
        return f"*{NOT_MEASURED}*"
    if figure["value"] is None:  # JSON has no infinity
        return "beyond all that were tried"
    interval = figure.get("interval")
    beside = f" ({interval[0]:.4g} to {interval[1]:.4g})" if interval else ""
    return f"{figure['value']:.4g} {figure['unit']}{beside}"


if __name__ == "__main__":
    main()
