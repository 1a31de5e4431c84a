"""What the agent's process and the model process say to each other, beside the worker's results.

Records of these two processes alone: they are pickled, never stored, and both processes run the same version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from agent.records import GoldenAccepted
from detectors.records import Verdict
from probes.scoring.interaction import Interaction


@dataclass(frozen=True, slots=True)
class ToScore:
    """Sampled responses to score."""

    interactions: tuple[Interaction, ...]


@dataclass(frozen=True, slots=True)
class Judged:
    """A round that the model process has made was judged; the verdicts on it follow."""

    base: str
    number: int
    at: float


@dataclass(frozen=True, slots=True)
class StoredGolden:
    """The answer to a GoldenWanted. row: hash and bytes, None where it is not stored; why: no answer, in words"""

    row: tuple[str, bytes] | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Owned:
    """From now on these bases are replayed and scored here, and no others."""

    bases: frozenset[str]


@dataclass(frozen=True, slots=True)
class Stop:
    """End. budget_s: seconds within which"""

    budget_s: float


Control = Judged | Verdict | GoldenAccepted | StoredGolden | Owned | Stop
Down = Control | ToScore


@dataclass(frozen=True, slots=True)
class Started:
    """The model libraries are loaded, and the first turn begins."""


@dataclass(frozen=True, slots=True)
class GoldenWanted:
    """A golden record whose file is lost is wanted from the store; pin: its hash, "" for the newest."""

    adapter: str
    pin: str


@dataclass(frozen=True, slots=True)
class Logged:
    """One line of the log. level: name of a method of the logger"""

    level: str
    event: str
    fields: Mapping[str, Any] = field(default_factory=dict)


class Exit(IntEnum):
    """Why the model process ended by itself: its exit code."""

    STOPPED = 0
    FAILED = 70  # an error that nobody expected
    PACKAGE_MISSING = 71
    REFUSED = 72  # settings of the runner that it does not take
    NO_MEMORY = 73
    DEVICE_LOST = 74  # only another process can use the device again


@dataclass(frozen=True, slots=True)
class Ended:
    """The last word of the model process. why: in words"""

    exit: Exit
    why: str
