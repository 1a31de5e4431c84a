"""How far is an enrolment of several adapters? One bar over all of it, with an estimate of the time that remains.

The unit is one replay of one canary: they read about as many tokens each, and tokens are what takes time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType

from rich.markup import escape
from rich.progress import Progress

from agent.clock import Clock
from agent.terminal.console import console, say
from agent.terminal.stage_progress import progress_bar

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
    _number: dict[str, int] = field(default_factory=dict)
    _done: dict[tuple[str, str], float] = field(default_factory=dict)
    _shown: tuple[str, str] = ("", "")
    _started: float = field(init=False)
    _bar: Progress = field(init=False)

    def __post_init__(self) -> None:
        self._started = self.clock.steady()
        self._bar = progress_bar("{task.completed:.0f}/{task.total:.0f} replays", ESTIMATED_OVER)
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

    @property
    def completed(self) -> float:
        """Replays done; never falls."""
        return sum(self.stages[stage] * share for (_, stage), share in self._done.items())

    def turn_to(self, adapter: str) -> None:
        """What is shown from now on is of this adapter."""
        self.adapter = adapter
        self._number.setdefault(adapter, len(self._number) + 1)

    def end(self) -> None:
        """The present adapter is finished, whether it was recorded or refused."""
        self._done |= {(self.adapter, stage): 1.0 for stage in self.stages}
        self._bar.update(self._bar.task_ids[0], completed=self.completed)

    def show(self, stage: str, done: int, total: int) -> None:
        """A step of the present adapter: ``replay_pairs.Progress``. A stage that was not expected counts as no work."""
        step = (self.adapter, stage)
        if stage in self.stages:
            # A stage may begin once more, with what turned out to be needed: the bar then waits.
            self._done[step] = max(self._done.get(step, 0.0), done / max(total, 1))
        which = f"{self._number[self.adapter]} of {self.adapters}, " if self.adapters > 1 else ""
        described = escape(f"{which}{self.adapter}: {stage}")
        self._bar.update(self._bar.task_ids[0], completed=self.completed, description=described)
        if step != self._shown and not console.is_terminal:
            say(f"{described} ...{self._left()}")
        self._shown = step

    def _left(self) -> str:
        """In words, once there is something to go by."""
        if not (completed := self.completed):
            return ""
        seconds = (self.clock.steady() - self._started) * (self.total - completed) / completed
        return f" {completed / self.total:.0%} done, about {seconds / 60:.0f} min left"
