"""Errors of the model room, named for the reaction they ask for.

ProbeError
├── Unreplayable   artefacts that cannot be replayed now (half written, missing): unmonitorable, try again next round
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


class Missing(Refused):
    """No golden record, damaged or not."""


class Damaged(Refused):
    """A golden record whose content does not have its hash."""
