"""An agent assembled from its file, with its models in a process of their own, whose loop the test turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from agent.app import App
from agent.assemble import assemble
from agent.config import load
from agent.sinks.memory import Sink
from agent.worker.model_process import ModelProcess
from detectors.records import BaseRound


class Assembled:
    """config: its file; opened: closes it; patience_s: after which something that was to happen has not"""

    def __init__(self, config: Path, opened: ExitStack, patience_s: float) -> None:
        self.sink = Sink()
        self.parts = assemble(load(config), extra_sinks=(self.sink,))
        assert isinstance(self.parts.worker, ModelProcess)
        self.models = self.parts.worker
        self._patience_s = patience_s
        self.app = App(self.parts)
        self.app.open(opened)

    def until(self, happened: Callable[[], bool]) -> None:
        give_up = time.monotonic() + self._patience_s
        while not happened():
            assert time.monotonic() < give_up, (self.models.status, self.rounds[-1:])
            self.app.step()
            time.sleep(0.01)

    @property
    def rounds(self) -> list[BaseRound]:
        return self.sink.of(BaseRound)
