"""One base or adapter whose files are watched: what was loaded of it, and whether it may be replayed now (readiness).

When files count as settled is decided in probes/artefacts/file_watch.py; what loading means, by the caller of ``look``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from detectors.records import Reason
from probes.artefacts import base_files
from probes.artefacts.file_watch import FileListing, FileWatch, WatchOutcome, list_files
from probes.errors import NoMemory, ProbeError, Unreplayable
from probes.residency.failed_loads import LOOKS_TO_WAIT
from probes.runner import Readiness


@dataclass(slots=True)
class WatchedArtefact:
    """source: as configured; stamp: the files at the last look; error: why the last load failed

    waiting: looks to let pass while the error is NoMemory
    """

    source: str
    watch: FileWatch = field(default_factory=FileWatch)
    stamp: FileListing | None = None
    readiness: Readiness = field(default_factory=lambda: Readiness(Reason.NOT_REPLAYED_YET, "not opened"))
    error: ProbeError | None = None
    waiting: int = 0

    def look(self, load: Callable[[Path], None], opening: bool = False) -> None:
        """Look at the files and ``load`` what has settled. opening: trust one look, if the files are unchanged after
        loading."""
        try:
            path = base_files.locate(self.source)
        except Unreplayable as error:
            self._settle(Reason.UNREADABLE, str(error), error)
            return
        self.stamp = now = list_files(path)
        self.watch, outcome, detail = self.watch.look(now)
        if outcome is WatchOutcome.GONE:
            self._settle(Reason.UNREADABLE, detail)
        elif outcome is WatchOutcome.CHANGING and not opening:
            self._settle(Reason.FILES_CHANGING, detail)
        elif outcome is WatchOutcome.READY:
            self._settle(None)
        elif isinstance(self.error, NoMemory) and self.waiting:
            self.waiting -= 1
        else:
            self._load(load, path, now)

    def fail(self, error: ProbeError) -> None:
        """What was read, or was to be read, cannot be used: not ready until a later look loads it."""
        self.watch, self.waiting = self.watch.failed(), LOOKS_TO_WAIT
        self._settle(Reason.NO_MEMORY if isinstance(error, NoMemory) else Reason.UNREADABLE, str(error), error)

    def retry_at_next_look(self) -> None:
        """Something else left memory: the next look may try again."""
        self.waiting = 0

    def forget(self) -> None:
        """Nothing is loaded any more; what comes next is a first look."""
        self.watch, self.stamp = FileWatch(), None
        self._settle(Reason.NOT_REPLAYED_YET, "closed")

    def check_ready(self) -> None:
        """Raises why this cannot be replayed: what loading raised, else Unreplayable with the readiness's words."""
        if self.readiness.blocked:
            raise self.error.afresh() if self.error else Unreplayable(self.source, self.readiness.detail)

    def check_unmoved(self) -> None:
        """Raises Unreplayable when the files are no longer those of the last look."""
        if list_files(base_files.locate(self.source)) != self.stamp:
            raise Unreplayable(self.source, "changed while replaying")

    def _load(self, load: Callable[[Path], None], path: Path, before: FileListing) -> None:
        try:
            load(path)
        except ProbeError as error:
            self.fail(error)
            return
        except OSError as error:  # of this artefact alone: what shares its base is loaded all the same
            self.fail(Unreplayable(str(path), f"{error.strerror or type(error).__name__} while it was read"))
            return
        if list_files(path) != before:
            self.watch = self.watch.failed()
            self._settle(Reason.FILES_CHANGING, f"{path}: changed while it was read")
        else:
            self.watch = self.watch.took(before)
            self._settle(None)

    def _settle(self, blocked: Reason | None, detail: str = "", error: ProbeError | None = None) -> None:
        self.readiness, self.error = Readiness(blocked, detail), error and error.afresh()
