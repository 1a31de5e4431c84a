"""Errors of the model room, named for the reaction they ask for.

ProbeError
├── Unreplayable   artefacts that cannot be replayed now (half written, missing): unmonitorable, try again next round
│   └── NoMemory   there is no memory for them: unmonitorable, try again when something has changed or some rounds later
├── Unsupported    the adapter asks for something this runner does not do (DoRA, bias ...): named, never ignored
├── Refused        enrolment or a golden record is wrong and will stay wrong: says what was seen and what was wanted
├── Missing        no golden record there: one that was never made, or a file that is gone
└── Damaged        a golden record whose content does not have its hash
"""

from __future__ import annotations

from typing import Self


class ProbeError(Exception):
    """Root of the tree."""

    def afresh(self) -> Self:
        """The same type and words without cause and frames: what is kept must not keep models alive through them."""
        twin = type(self).__new__(type(self), *self.args)
        twin.__dict__.update(self.__dict__)
        return twin


class Unreplayable(ProbeError):
    """Artefacts that cannot be read or run now. path: where; why: in words."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.path, self.why = path, why


class NoMemory(Unreplayable):
    """Loading or running it takes more memory than there is.

    asked: bytes, 0 unknown; free: bytes, None unknown; told: the device's own words, where it tells both
    """

    def __init__(self, path: str, asked: int = 0, free: int | None = None, told: str = "") -> None:
        figures = [f"{_size(asked)} asked for"] if asked else []
        figures += [f"{_size(free)} free"] if free is not None else []
        super().__init__(path, f"no memory for it: {told or ', '.join(figures) or 'how much was asked for is unknown'}")
        self.asked, self.free, self.told = asked, free, told


class Unsupported(ProbeError):
    """A feature of an adapter that this runner would have to ignore. feature: its name in adapter_config.json."""

    def __init__(self, path: str, feature: str) -> None:
        super().__init__(f"{path}: {feature} is not supported, and leaving it out would change the adapter")
        self.path, self.feature = path, feature


class Refused(ProbeError):
    """Seen and wanted do not agree."""

    def __init__(self, what: str, seen: object, wanted: str) -> None:
        super().__init__(f"{what}: saw {seen}, wanted {wanted}")
        self.what, self.seen, self.wanted = what, seen, wanted


class MissingGolden(Refused):
    """No golden record, damaged or not."""


class DamagedGolden(Refused):
    """A golden record whose content does not have its hash."""


def _size(count: int) -> str:
    """Bytes in words, to three digits."""
    units = ("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1.0)
    name, unit = next((pair for pair in units if count >= pair[1]), units[-1])
    return f"{count / unit:.3g} {name}"
