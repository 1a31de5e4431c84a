"""Errors of the model room, named for the reaction they ask for.

ProbeError
├── Unreplayable    artefacts that cannot be replayed now (half written, missing): unmonitorable, try again next round
│   ├── NoMemory    not enough memory for them: unmonitorable, try again after a change or some rounds later
│   ├── BadNumbers  the serving engine answers with NaN or infinity: unmonitorable by that, try again next round
│   └── EngineAway  the serving engine does not answer, starts or has too much to do: unmonitorable, try again later
├── Unsupported     the adapter needs a feature that this runner lacks (QALoRA, aLoRA ...): named, never ignored
└── Refused         input that is wrong and will stay wrong: says what was seen and what was wanted
    ├── MissingGolden   no golden record: one that was never made, or a file that is gone
    └── DamagedGolden   a golden record that cannot be read, or whose content does not have its hash
"""

from __future__ import annotations

from typing import Self


class ProbeError(Exception):
    """Root of the tree."""

    def afresh(self) -> Self:
        """A copy without cause and traceback, whose frames would keep models alive as long as the error is stored."""
        copy = type(self).__new__(type(self), *self.args)
        copy.__dict__.update(self.__dict__)
        return copy


class Unreplayable(ProbeError):
    """Artefacts that cannot be read or run now. path: which file, folder or canary; why: in words."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.path, self.why = path, why


class NoMemory(Unreplayable):
    """Loading or running it takes more memory than is free.

    requested: bytes, 0 unknown; free: bytes, None unknown; device_message: the device's own, where it names both
    meaning: what follows from it, in words
    """

    def __init__(
        self, path: str, requested: int = 0, free: int | None = None, device_message: str = "", meaning: str = ""
    ) -> None:
        reason = device_message or shortage(requested, free) or "how much was requested is unknown"
        super().__init__(path, f"not enough memory: {reason}{f'; {meaning}' if meaning else ''}")
        self.requested, self.free, self.device_message = requested, free, device_message


class BadNumbers(Unreplayable):
    """A serving engine's answer holds NaN or infinity where a log-probability belongs. path: its address"""


class EngineAway(Unreplayable):
    """The serving engine gives no answer now, and is not at fault for it: it is down, starting, stopping or overloaded.

    path: its address; again_in_s: as it wishes (Retry-After), None where it does not say
    """

    def __init__(self, path: str, why: str, again_in_s: float | None = None) -> None:
        super().__init__(path, why)
        self.again_in_s = again_in_s


class Unsupported(ProbeError):
    """A feature of an adapter that this runner does not implement. feature: its name in adapter_config.json."""

    def __init__(self, path: str, feature: str) -> None:
        super().__init__(f"{path}: {feature} is not supported, and leaving it out would change the adapter")
        self.path, self.feature = path, feature


class Refused(ProbeError):
    """Input that is wrong. what: which input; actual: what it is; wanted: what it has to be, and what to do."""

    def __init__(self, what: str, actual: object, wanted: str) -> None:
        super().__init__(f"{what}: saw {actual}, wanted {wanted}")
        self.what, self.actual, self.wanted = what, actual, wanted


class MissingGolden(Refused):
    """There is no golden record."""


class DamagedGolden(Refused):
    """A golden record that cannot be read, or whose content does not have its hash."""


def shortage(requested: int, free: int | None, where: str = "") -> str:
    """How much was wanted, was there and is missing, as far as it is known. where: behind what was there"""
    figures = [f"{size(requested)} requested"] if requested else []
    figures += [f"{size(free)} free{where}"] if free is not None else []
    figures += [f"{size(requested - free)} more needed"] if free is not None and requested > free else []
    return ", ".join(figures)


def size(count: int) -> str:
    """A number of bytes for people, to three digits."""
    units = ("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1.0)
    name, unit = next((pair for pair in units if count >= pair[1]), units[-1])
    return f"{count / unit:.3g} {name}"
