"""Which detectors are there, and what can each of them say? One file under detectors/kinds each, found by its name.

The contract of all of them is here, and the protocols of what only some can say; docs/adding-a-detector.md explains it.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from types import ModuleType
from typing import Any, Protocol, Self, runtime_checkable

from detectors import kinds
from detectors.errors import UnknownDetector
from detectors.evidence.alternative import Alternative
from detectors.evidence.e_process_bank import OnsetEstimate
from detectors.records import Evidence, Interval, SubjectKind
from detectors.traffic_records import Calibration, TrafficRound


class Detector(Protocol):
    """The contract of a detector; tests/detectors/test_every_detector.py holds every file to it.

    reads: the one record type that ``update`` takes; the monitor routes by it and by nothing else
    about: what its evidence is about, an adapter, a base, or requests that name a base; each such subject has an M of
    its own
    pages: may it alarm by itself? Only then do its streams count in the fleet's budget. Only evidence of canaries, and
    of responses about adapters or about requests that name a base, opens incidents: what pages by anything else would
    cost budget and page nobody
    state: all that changes, with ``to_json`` and ``from_json``; one object serves all subjects. ``part(wanted)`` is
    what it holds of some of them, by name, and ``joined(more)`` is it with another's, of none of the same. Its class
    has ``layout``, the version of what ``to_json`` writes and of what that is evidence of: saved evidence of another
    one starts at 0
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


# What only some detectors have beside that. Who needs it looks for it with isinstance, never for a detector's name.


@runtime_checkable
class OwnPast(Protocol):
    """A detector that compares with a past of its own, and not with the golden record."""

    def forget(self, subject: str) -> None:
        """All that was learnt of one subject: another golden record is in force for it."""


@runtime_checkable
class EstimatesRetention(Protocol):
    """A detector that can say from responses how much of an adapter is left. Without one no response is judged."""

    def onset(self, subject: str) -> OnsetEstimate | None: ...

    def retention(self, subject: str) -> Interval | None:
        """0 the base, 1 intact; None before the first response that says so."""


@runtime_checkable
class WeighsAlternatives(Protocol):
    """Settings of a detector that mixes alternatives: by these weights, so that responses are scored against what it
    will weigh."""

    @property
    def weights(self) -> tuple[tuple[Alternative, float], ...]: ...


@runtime_checkable
class CalibratesSampler(Protocol):
    """A detector that can say from responses by which sampler their tokens are drawn."""

    @property
    def pages(self) -> bool: ...

    def restart(self, subject: str) -> None:
        """Estimates are of the responses after this."""

    def calibration(self, subject: str, record: TrafficRound) -> Calibration | None:
        """After the round; None before the first scored response."""


@runtime_checkable
class SeesOtherDistributions(Protocol):
    """A detector that sees that tokens are not distributed as accepted, without knowing what would do that."""

    def unexplained(self, subject: str) -> float:
        """Nats of evidence for it; 0 where there is none, and where it has stopped growing."""

    def restart_where_over(self, subject: str, log_threshold: float) -> None:
        """Forgets evidence above this level, in nats, that has stopped growing."""


@runtime_checkable
class ComparesWithAdapters(Protocol):
    """A detector whose evidence about a base rests on the golden records of its adapters."""

    def accept_adapter(self, adapter: str) -> None:
        """Another golden record is in force for this adapter: what rests on the former one starts again."""


@runtime_checkable
class SeveralStreams(Protocol):
    """Settings of a detector of which not exactly one stream a subject may page."""

    @property
    def streams_per_adapter(self) -> int: ...


@runtime_checkable
class OfEnginesAlone(Protocol):
    """Settings of a detector that has something to read only where a base is asked of a serving engine."""

    @property
    def of_engines_alone(self) -> bool: ...


@runtime_checkable
class ThresholdAware(Protocol):
    """Settings of a detector that bounds what one observation may add by the threshold of the fleet."""

    def with_threshold(self, log_threshold: float) -> Self:
        """log_threshold: ln A, nats"""


def names() -> tuple[str, ...]:
    """All detectors, in alphabetical order. The folder is listed, nothing is imported."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(kinds.__path__)))


def reads(name: str) -> type:
    """The record type that the detector of that name reads. Raises UnknownDetector."""
    record: type = load(name).Detector.reads
    return record


def load(name: str) -> ModuleType:
    """The file of that name, with its ``Config``, ``State`` and ``Detector``.

    Raises UnknownDetector, naming what there is; an import that fails inside the file is reported as itself.
    """
    if name not in names():
        raise UnknownDetector("detector", name, f"one of {', '.join(names())}")
    return import_module(f"{kinds.__name__}.{name}")
