"""How far is an enrolment of several adapters? One bar over all of it, with an estimate of the time that remains.

The unit is one replay of one canary: they read about as many tokens each, and tokens are what takes time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType

from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from agent.cli.console import console, say
from agent.clock import Clock

# Seconds of the past that the estimate rests on: a pass over all canaries of a large base may take minutes.
ESTIMATED_OVER = 1800.0


@dataclass(slots=True)
class EnrolProgress:
    """The work of several adapters, each of which goes through the same stages.

    stages: replays of one adapter by stage, estimated before it begins; adapters: how many there are

    Drawn as a bar on a terminal; elsewhere one line for each stage.
    """

    stages: Mapping[str, int]
    adapters: int
    clock: Clock = field(default_factory=Clock)
    adapter: str = ""
    finished: int = 0
    _stage: str = ""
    _reached: float = 0.0
    _started: float = field(init=False)
    _bar: Progress = field(init=False)

    def __post_init__(self) -> None:
        self._started = self.clock.steady()
        counted = TextColumn("{task.completed:.0f}/{task.total:.0f} replays")
        left = TextColumn("left"), TimeRemainingColumn()
        columns = (TextColumn("{task.description}"), BarColumn(), counted, TimeElapsedColumn(), *left)
        drawn = console.is_terminal
        self._bar = Progress(*columns, console=console, disable=not drawn, speed_estimate_period=ESTIMATED_OVER)
        self._bar.add_task("", total=self.total)

    @property
    def total(self) -> int:
        return self.adapters * sum(self.stages.values())

    def __enter__(self) -> EnrolProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def begin(self, adapter: str) -> None:
        """The next adapter."""
        self.adapter, self._stage = adapter, ""

    def end(self) -> None:
        """That adapter is finished, whether it was recorded or refused."""
        self.finished += 1
        self._bar.update(self._bar.task_ids[0], completed=self.completed("", 0, 1))

    def completed(self, stage: str, done: int, total: int) -> float:
        """Replays done when so much of a stage is done. A stage that was not expected counts as no work."""
        names = list(self.stages)
        before = names[: names.index(stage)] if stage in names else []
        replays = sum(self.stages[name] for name in before) + self.stages.get(stage, 0) * done / max(total, 1)
        return self.finished * sum(self.stages.values()) + replays

    def show(self, stage: str, done: int, total: int) -> None:
        """A step of the present adapter: ``replay_pairs.Progress``."""
        # A stage may begin once more, with what turned out to be needed: the bar then waits.
        self._reached = completed = max(self._reached, self.completed(stage, done, total))
        which = f"{self.finished + 1} of {self.adapters}, " if self.adapters > 1 else ""
        described = escape(f"{which}{self.adapter}: {stage}")
        self._bar.update(self._bar.task_ids[0], completed=completed, description=described)
        if stage != self._stage and not console.is_terminal:
            say(f"{described} ...{self._left(completed)}")
        self._stage = stage

    def _left(self, completed: float) -> str:
        """In words, once there is something to go by."""
        if not completed:
            return ""
        seconds = (self.clock.steady() - self._started) * (self.total - completed) / completed
        return f" {completed / self.total:.0%} done, about {seconds / 60:.0f} min left"
