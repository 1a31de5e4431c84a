"""gapwatch check-config: is this file one that ``run`` would start with?"""

from __future__ import annotations

from pathlib import Path

from rich.markup import escape

from agent.cli.console import as_json, say
from agent.config import Config, load, missing_files
from agent.worker.goldens import UNKEPT


def check(path: Path, json: bool) -> int:
    """0 when the file is sound and the files it names are there; 1 with a line each otherwise. Raises Refused.

    Notes are of what it says and means; they change no exit code.
    """
    config = load(path)
    missing, notes = missing_files(config), _notes(config)
    if json:
        problems = [str(problem) for problem in missing]
        as_json({"file": str(path), "ok": not missing, "problems": problems, "notes": notes})
        return int(bool(missing))
    for problem in missing:
        say(f"[red]✗[/red] {escape(str(problem))}")
    if not missing:
        adapters = sum(len(model.adapters) for model in config.models)
        say(f"[green]✓[/green] {path}: {len(config.models)} base(s), {adapters} adapter(s)")
    for note in notes:
        say(f"[yellow]![/yellow] {escape(note)}")
    return int(bool(missing))


def _notes(config: Config) -> list[str]:
    """What the file may say, and what follows that its writer may not have meant."""
    unkept = [m for m in config.models if config.scores(m) and m.golden_path is None and not config.keeps_weights(m)]
    return [f"probes.keep_golden_weights is false: of base {model.name}, {UNKEPT}" for model in unkept]
