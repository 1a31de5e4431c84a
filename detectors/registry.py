"""Which detectors are there? One file under detectors/kinds each; the file's name is its name in the config."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

from detectors import kinds
from detectors.errors import UnknownDetector
from detectors.evidence.e_process_bank import OnsetEstimate
from detectors.records import Evidence, SubjectKind


class Detector(Protocol):
    """The contract of a detector; tests/detectors/test_every_detector.py holds every file to it.

    reads: the one record type that ``update`` takes; the monitor routes by it and by nothing else
    about: what its evidence is about, an adapter or a base; each such subject has an M of its own
    pages: may it alarm by itself? Only then do its streams count in the fleet's budget
    state: all that changes, with ``to_json`` and ``from_json``; one object serves all subjects
    """

    reads: type
    about: SubjectKind
    config: Any
    state: Any

    @property
    def pages(self) -> bool: ...

    def update(self, record: Any) -> tuple[Evidence, ...]:
        """The level of each stream that the record is about. One "+1" each, none where nothing was measured."""

    def onset(self, subject: str) -> OnsetEstimate | None:
        """When did what the evidence is about begin? None where it cannot tell."""

    def restart(self, subject: str) -> None:
        """Every M of one subject back to 0."""


@runtime_checkable
class OwnPast(Protocol):
    """What a detector has beside that when it compares with a past of its own, and not with the golden record."""

    def forget(self, subject: str) -> None:
        """All that was learnt of one subject: another golden record is in force for it."""


def names() -> tuple[str, ...]:
    """All detectors, in alphabetical order. The folder is asked, nothing is imported."""
    return tuple(sorted(found.name for found in pkgutil.iter_modules(kinds.__path__)))


def reads(name: str) -> type:
    """The record type that the detector of that name reads. Raises UnknownDetector."""
    found: type = load(name).Detector.reads
    return found


def load(name: str) -> ModuleType:
    """The file of that name, with its ``Config``, ``State`` and ``Detector``.

    Raises UnknownDetector, naming what there is; an import that fails inside the file is reported as itself.
    """
    if name not in names():
        raise UnknownDetector("detector", name, f"one of {', '.join(names())}")
    return import_module(f"{kinds.__name__}.{name}")
