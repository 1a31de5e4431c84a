"""What waits to be sent to the model process: sampled responses, of which there may be many, and what is asked of it.

Shared by three threads: the loop adds, one thread takes and sends, another one counts what was done. Nothing here waits
for the process. It is sent a few responses ahead of its work and no more, so that what it has no time for is shed here,
by order of arrival, and what is lost when it ends is known and counted as shed too.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence

from agent.worker.backlog import Backlog, with_base_requests
from agent.worker.messages import Control, Owned, ToScore
from probes.scoring.interaction import Interaction

# Responses of one base that are sent ahead of what was done of it: two batches, so that the process waits for none.
AHEAD = 32
# Verdicts and the like that may wait: a hundred adapters that are all broken, for some rounds.
MOST_CONTROLS = 2000


class WorkQueue:
    """bases: base -> its adapters; room: responses of each adapter that may wait"""

    def __init__(self, bases: Mapping[str, Sequence[str]], room: int = 64) -> None:
        queues = with_base_requests(bases)
        self._base_of = {name: base for base, names in queues.items() for name in names}
        self._backlogs = {base: Backlog(names, room) for base, names in queues.items()}
        self._controls: deque[Control] = deque()
        self._owned: Owned | None = None  # not sent yet; apart, because it may not be dropped
        self._sent: Counter[str] = Counter()
        self._lost: Counter[str] = Counter()
        self._changed = threading.Condition()

    def add(self, interactions: Iterable[Interaction]) -> None:
        """Responses to score; those of adapters that are not watched are left out."""
        with self._changed:
            for interaction in interactions:
                base = self._base_of.get(interaction.adapter)
                if base is not None:
                    self._backlogs[base].add(interaction)
            self._changed.notify()

    def own(self, bases: frozenset[str]) -> None:
        """The process is told before anything else that these are its bases now. Responses of others wait no more, and
        are counted as lost."""
        with self._changed:
            for base, backlog in self._backlogs.items():
                if base not in bases:
                    self._lost.update(interaction.adapter for interaction in backlog.clear())
            self._owned = Owned(bases)
            self._changed.notify()

    def put(self, control: Control) -> None:
        """Sent before responses, in order. Beyond MOST_CONTROLS the oldest are dropped: the process reads nothing."""
        with self._changed:
            self._controls.append(control)
            while len(self._controls) > MOST_CONTROLS:
                self._controls.popleft()
            self._changed.notify()

    def take(self, timeout_s: float) -> Control | ToScore | None:
        """The next thing to send; None where there is none within that time."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._owned or self._controls) or self._may_send(), timeout_s)
            if self._owned is not None:
                owned, self._owned = self._owned, None
                return owned
            return self._controls.popleft() if self._controls else self._to_score()

    def done(self, counts: Mapping[str, int]) -> None:
        """The process has dealt with so many responses of each adapter."""
        with self._changed:
            self._sent.subtract(counts)
            self._changed.notify()

    def start_again(self) -> None:
        """The process has ended: what it was asked means nothing to the next one, and what it was sent is lost."""
        with self._changed:
            self._controls.clear()
            self._lost += self._sent
            self._sent.clear()

    @property
    def shed(self) -> Mapping[str, int]:
        """Of every adapter, how many responses found no room, or were lost."""
        with self._changed:
            shed = {name: n for backlog in self._backlogs.values() for name, n in backlog.shed.items()}
            return {name: n + self._lost[name] for name, n in shed.items()}

    def _room(self, base: str) -> int:
        return AHEAD - sum(n for name, n in self._sent.items() if self._base_of[name] == base)

    def _may_send(self) -> bool:
        return any(len(backlog) and self._room(base) > 0 for base, backlog in self._backlogs.items())

    def _to_score(self) -> ToScore | None:
        taken = tuple(i for base, backlog in self._backlogs.items() for i in backlog.take(self._room(base)))
        self._sent.update(interaction.adapter for interaction in taken)
        return ToScore(taken) if taken else None
