"""The files of a base whose serving engine answers its canaries, replayed beside it in the same pod.

What they answer is no evidence: it tells a fault of the files from one of serving (detectors/verdicts/three_way.py).
Their answers are kept (probes/canaries/kept_answers.py), so that files that did not change are replayed once a day. The
same copies score the sampled responses of that base.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from detectors.records import FilesRound
from probes.canaries.kept_answers import KeptAnswers
from probes.canaries.round import Scheduled, replay_base_round
from probes.canaries.schedule import due
from probes.golden.record import Golden, Unmonitorable
from probes.runner import Runner, Stop


@dataclass(slots=True)
class WatchedFiles:
    """runner: of the files, which may not be opened yet; adapters: whose folders are at hand

    every_s: seconds between two rounds; number: of the next one; last: when the last one began, None before the first
    in_force: adapter -> hash of the golden record whose kept copies the runner was last given
    """

    runner: Runner
    adapters: tuple[str, ...]
    every_s: float
    number: int = 0
    last: float | None = None
    opened: bool = False
    in_force: dict[str, str] = field(default_factory=dict)
    kept: KeptAnswers = field(default_factory=KeptAnswers)

    def is_due(self, now: float) -> bool:
        return due(now, self.last, self.every_s)

    def open(self, now: float) -> None:
        """A round begins. Raises what the runner does, which is tried again in the next one."""
        self.last = now
        if not self.opened:
            self.runner.open()
            self.opened = True

    def newly_in_force(self, goldens: Mapping[str, Golden | Unmonitorable]) -> list[Golden]:
        """Records whose kept copies the open runner was not given yet; from now on it counts as given them."""
        held = [golden for golden in goldens.values() if isinstance(golden, Golden)]
        new = [golden for golden in held if self.in_force.get(golden.adapter) != golden.hash]
        self.in_force |= {golden.adapter: golden.hash for golden in new}
        return new

    def replay(
        self, goldens: Mapping[str, Golden | Unmonitorable], when: Callable[[int], Scheduled], stop: Stop
    ) -> FilesRound | None:
        """The round against these records, of the adapters whose files are at hand; None where it was stopped.

        when: number of the round -> what is drawn in it
        Raises what the runner does: it costs the canaries that the engine answers nothing.
        """
        scheduled = when(self.number)
        self.number += 1
        own = {name: golden for name, golden in goldens.items() if name in self.adapters}
        done = replay_base_round(self.runner, own, scheduled, stop, self.kept)
        return None if done is None else FilesRound(done)

    def release(self) -> None:
        """Nothing of them stays in memory."""
        self.last, self.kept, self.in_force = None, KeptAnswers(), {}
        if self.opened:
            self.opened = False
            self.runner.close()
