"""Errors of the mathematics.

DetectorError
└── Refused            a config or a record that makes no sense: says what was seen and what was wanted
    ├── ShapeMismatch  arrays that do not fit each other
    └── UnknownDetector no file of that name under detectors/kinds

"Not enough data yet" is a value (``log_e`` near 0, small ``n``), never an exception.
"""

from __future__ import annotations


class DetectorError(Exception):
    """Root of the tree."""


class Refused(DetectorError):
    """What was given is not what is wanted; the caller's input is wrong and will stay wrong."""

    def __init__(self, what: str, actual: object, wanted: str) -> None:
        super().__init__(f"{what}: saw {actual}, wanted {wanted}")
        self.what, self.actual, self.wanted = what, actual, wanted


class ShapeMismatch(Refused):
    """Arrays that do not fit each other."""


class UnknownDetector(Refused):
    """No component of that name."""
