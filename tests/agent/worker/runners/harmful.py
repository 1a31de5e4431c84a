"""For tests of the model process: the runner in memory, which does harm to its process when a file tells it to."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from probes.runner import BatchShape, Replay, Replayed, Stop
from probes.runners import memory
from probes.scoring.scoring_job import ScoringAnswer, ScoringJob, ScoringOptions

MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Config:
    """folder: with the file ``harm`` of what is to be done and when ("round: hold 300"); ``begun`` is written before"""

    folder: str
    base: str = "base-v1"
    adapters: dict[str, str] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)


class Runner(memory.Runner):
    def __init__(self, config: Config) -> None:
        super().__init__(memory.Config(config.base, config.adapters, faults=config.faults))
        self._folder = Path(config.folder)
        self._held: list[object] = []

    def run(self, replays: Sequence[Replay], stop: Stop, shape: BatchShape | None = None) -> Iterator[Replayed]:
        self._harm("round")
        return super().run(replays, stop, shape)

    def score(
        self, jobs: Sequence[ScoringJob], stop: Stop, asking: ScoringOptions | None = None
    ) -> list[ScoringAnswer]:
        self._harm("score")
        return super().score(jobs, stop, asking)

    def _harm(self, when: str) -> None:
        file = self._folder / "harm"
        wanted, _, deed = (file.read_text() if file.is_file() else "").partition(": ")
        if wanted != when:
            return
        (self._folder / "begun").write_text(deed)
        kind, _, size = deed.partition(" ")
        match kind:
            case "sleep":
                time.sleep(1000.0)
            case "rust":  # as handle_alloc_error does it
                os.write(2, f"memory allocation of {size} bytes failed\n".encode())
                os.abort()
            case "abort":
                os.abort()
            case "hold":
                self._held.append(bytearray(int(size) * MB))
            case "share":
                shared = mmap.mmap(-1, int(size) * MB)
                self._held.append(shared)
                for _ in range(int(size)):
                    shared.write(b"x" * MB)
                time.sleep(1000.0)
