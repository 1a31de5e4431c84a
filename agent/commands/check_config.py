"""gapwatch check-config: is this file one that ``run`` would start with?"""

from __future__ import annotations

from pathlib import Path

from agent.config import load, missing_files
from agent.screen import as_json, console


def check(path: Path, json: bool) -> int:
    """0 when the file is sound and the files it names are there; 1 with a line each otherwise. Raises Refused."""
    config = load(path)
    missing = missing_files(config)
    if json:
        as_json({"file": str(path), "ok": not missing, "problems": [str(problem) for problem in missing]})
        return int(bool(missing))
    for problem in missing:
        console.print(f"[red]✗[/red] {problem}", highlight=False)
    if not missing:
        adapters = sum(len(model.adapters) for model in config.models)
        console.print(f"[green]✓[/green] {path}: {len(config.models)} base(s), {adapters} adapter(s)", highlight=False)
    return int(bool(missing))
