"""How far is a long command? The bar that all of them draw on a terminal; elsewhere one line for each stage."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from agent.terminal.console import console, say


def progress_bar(counted: str, estimated_over: float = 30.0) -> Progress:
    """Description, bar, count, time gone and left; nothing is drawn elsewhere than on a terminal.

    counted: as rich formats it; estimated_over: seconds of the past that the estimate rests on
    """
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn(counted), TimeElapsedColumn())
    left = (TextColumn("left"), TimeRemainingColumn())
    drawn = console.is_terminal
    return Progress(*columns, *left, console=console, disable=not drawn, speed_estimate_period=estimated_over)


class StageProgress:
    """A bar of its own for each stage, each with the time that remains of it."""

    def __init__(self) -> None:
        self._bar = progress_bar("{task.completed}/{task.total}")
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> StageProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, stage: str, done: int, total: int) -> None:
        """See ``replay_pairs.Progress``."""
        if stage not in self._tasks:
            self._tasks[stage] = self._bar.add_task(stage, total=total)
            if not console.is_terminal:
                say(escape(f"{stage} ..."))
        self._bar.update(self._tasks[stage], completed=done, total=total)
