"""The results section of the README, from the JSON files of the benchmarks: ``python -m benchmarks.results_page``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

ROOT = Path(__file__).resolve().parent.parent
HEADING = "| figure | value | target | |\n|---|---|---|---|"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def main() -> None:
    readme = ROOT / "README.md"
    before, rest = readme.read_text().split(BEGIN)
    after = rest.split(END)[1]
    parts = [section(file) for file in sorted((ROOT / "benchmarks" / "results").glob("*.json"))]
    readme.write_text(before + "\n".join([BEGIN, *parts, END]) + after)


def section(file: Path) -> str:
    """One benchmark with the command and the machine: what had a target as a table, misses first, the rest folded."""
    told = orjson.loads(file.read_bytes())
    seen = told["machine"]
    figures = sorted(told["figures"], key=lambda figure: figure["met"] is not False)
    claims = [_row(figure) for figure in figures if figure["met"] is not None]
    context = [_row(figure) for figure in figures if figure["met"] is None]
    parts = (
        seen["cpu"],
        f"{seen['cores']} cores",
        seen["gpu"] or "no GPU",
        f"Python {seen['python']}",
        f"torch {seen['torch']}",
    )
    where = ", ".join(parts)
    head = f"`python -m benchmarks.{file.stem}`, seen on {where}:\n"
    folded = f"<details><summary>{len(context)} figures beside them</summary>\n"
    return "\n".join([head, HEADING, *claims, "", folded, HEADING, *context, "", "</details>", ""])


def _row(figure: dict[str, Any]) -> str:
    mark = {True: "met", False: "**missed**", None: ""}[figure["met"]]
    target = "" if figure["target"] is None else f"{figure['target']:g}"
    name = figure["name"].replace("|", "\\|")
    return f"| {name} | {figure['value']:.4g} {figure['unit']} | {target} | {mark} |"


if __name__ == "__main__":
    main()
