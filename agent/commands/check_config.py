"""gapwatch check-config: is this file one that ``run`` would start with?"""

from __future__ import annotations

from pathlib import Path

from rich.markup import escape

from agent.config import load, missing_files
from agent.screen import as_json, say


def check(path: Path, json: bool) -> int:
    """0 when the file is sound and the files it names are there; 1 with a line each otherwise. Raises Refused."""
    config = load(path)
    missing = missing_files(config)
    if json:
        as_json({"file": str(path), "ok": not missing, "problems": [str(problem) for problem in missing]})
        return int(bool(missing))
    for problem in missing:
        say(f"[red]✗[/red] {escape(str(problem))}")
    if not missing:
        adapters = sum(len(model.adapters) for model in config.models)
        say(f"[green]✓[/green] {path}: {len(config.models)} base(s), {adapters} adapter(s)")
    return int(bool(missing))
