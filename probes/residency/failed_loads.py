"""What could not be loaded, why, and what has to happen before it is tried again.

Three things bring a failed load back: its files change, memory is freed in this process, or some looks have passed (a
look lists the watched files, once before each round). The last is for reasons whose end cannot be observed from here:
memory held by other processes, a volume that did not answer. What was rejected for its content waits for other files
only: reading it again costs gigabytes of IO and ends the same. All transitions are in ``failure_of``, ``after_look``
and ``after_freed_memory``; the rest is bookkeeping.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum

from probes.artefacts import base_files
from probes.artefacts.file_watch import FileListing, list_files
from probes.errors import NoMemory, ProbeError, Unreplayable

# Looks that pass before a load is tried again where no change was observed: trying costs seconds and what memory there
# is, and what holds the memory is seldom gone a round later.
LOOKS_TO_WAIT = 6


class Load(StrEnum):
    """What is loaded on the golden side. Of a pair (Load, name), the name is that of the adapter, or of the bits."""

    GOLDEN_BASE = "golden base"
    ON_GOLDEN_BASE = "adapter on the golden base"
    ACCEPTED_ADAPTER = "accepted copy of an adapter"
    QUANTISED_COPY = "quantised copy of a base"


Key = tuple[Load, str]


@dataclass(frozen=True, slots=True)
class FilesAt:
    """The files that a load reads. listing: as they were before it; None where a hub id has no local copy"""

    source: str
    listing: FileListing | None


@dataclass(frozen=True, slots=True)
class Waiting:
    """Failed for a reason that may end: short of memory, or the operating system or torch failed.

    files: None for what is made from artefacts in memory; looks_left: looks that pass before it is tried again
    """

    error: ProbeError
    files: FilesAt | None
    looks_left: int = LOOKS_TO_WAIT


@dataclass(frozen=True, slots=True)
class Rejected:
    """Read and refused for its content. files: as in ``Waiting``"""

    error: ProbeError
    files: FilesAt | None


Failure = Waiting | Rejected


def failure_of(error: ProbeError, files: FilesAt | None) -> Failure:
    """The state after a load raised this. The error is kept without its frames, which would keep models in memory."""
    may_end = isinstance(error, NoMemory) or isinstance(error.__cause__, (OSError, RuntimeError))
    return (Waiting if may_end else Rejected)(error.afresh(), files)


def after_look(failure: Failure, files: FilesAt | None) -> Failure | None:
    """The state one look later, None where it may be tried again. files: as they are now"""
    if files != failure.files:
        return None
    if isinstance(failure, Rejected):
        return failure
    return replace(failure, looks_left=failure.looks_left - 1) if failure.looks_left else None


def after_freed_memory(failure: Failure) -> Failure:
    """The state once something else left memory: what may have been short of it is tried at the next look."""
    return replace(failure, looks_left=0) if isinstance(failure, Waiting) else failure


def files_at(source: str) -> FilesAt:
    """Names and times of the files now; nothing is read or fetched. source: folder, .gguf file or hub id"""
    try:
        return FilesAt(source, list_files(base_files.locate(source)))
    except Unreplayable:
        return FilesAt(source, None)


class FailedLoads:
    """The failures that stand. What is not in here was loaded, or may be tried."""

    def __init__(self) -> None:
        self._failures: dict[Key, Failure] = {}

    def __contains__(self, key: Key) -> bool:
        return key in self._failures

    def error(self, key: Key) -> ProbeError | None:
        return self._failures[key].error if key in self._failures else None

    def check(self, key: Key) -> None:
        """Raises what this load failed by, while that stands."""
        if error := self.error(key):
            raise error.afresh()

    @contextmanager
    def attempt(self, key: Key, source: str | None = None) -> Iterator[None]:
        """A load. A ProbeError is noted, so that the load is not repeated at each question, and raised.

        source: where its files are; None for what is made from artefacts in memory
        """
        files = None if source is None else files_at(source)
        self._failures.pop(key, None)
        try:
            yield
        except ProbeError as error:
            self._failures[key] = failure_of(error, files)
            raise

    def look(self) -> list[Key]:
        """One look later. Gives what may be tried again from now on."""
        before = self._failures
        looked = {key: after_look(state, state.files and files_at(state.files.source)) for key, state in before.items()}
        self._failures = {key: failure for key, failure in looked.items() if failure}
        return [key for key in before if key not in self._failures]

    def memory_freed(self) -> None:
        self._failures = {key: after_freed_memory(failure) for key, failure in self._failures.items()}

    def forget(self, key: Key) -> None:
        self._failures.pop(key, None)

    def clear(self) -> None:
        self._failures.clear()
