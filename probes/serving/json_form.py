"""Values of an engine's JSON and of its metrics, taken only as the type that they should have.

``with reading(where):`` turns whatever is missing or of another type into Unreplayable, in words without the value.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator
from typing import Any

from probes.errors import Unreplayable

SAMPLE = re.compile(r"(?P<name>[A-Za-z_:][\w:]*)(?:\{[^}]*\})? (?P<value>\S+)")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@contextlib.contextmanager
def reading(where: str) -> Iterator[None]:
    """where: address with the path, for the message"""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError):
        raise Unreplayable(where, "JSON of another form than this kind of engine has: is it another kind?") from None


def number(value: Any) -> float:
    """Raises TypeError for anything but a number; it may be infinite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    return float(value)


def whole(value: Any) -> int:
    """A token id or a count, from 0. Raises TypeError and ValueError."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError
    if not 0 <= value < 2**31:
        raise ValueError
    return value


def wholes(values: Any) -> tuple[int, ...]:
    """Token ids. Raises TypeError and ValueError."""
    if not isinstance(values, list):
        raise TypeError
    return tuple(map(whole, values))


def text(value: Any) -> str:
    """Raises TypeError for anything but a string."""
    if not isinstance(value, str):
        raise TypeError
    return value


def text_or_none(value: Any) -> str:
    """ "" for null. Raises TypeError for anything but that and a string."""
    return "" if value is None else text(value)


def whole_or_none(value: Any) -> int | None:
    return None if value is None else whole(value)


def samples(exposition: str) -> dict[str, list[float]]:
    """Finite values of Prometheus' text format by name, one for each set of labels; other lines are left out."""
    values: dict[str, list[float]] = {}
    for line in exposition.splitlines():
        match = SAMPLE.match(line)
        with contextlib.suppress(ValueError):
            if match and math.isfinite(value := float(match["value"])):
                values.setdefault(match["name"], []).append(value)
    return values


def labels(exposition: str, name: str) -> dict[str, str]:
    """Those of the first sample of that name in Prometheus' text format, as they are written; none without one."""
    line = re.search(rf"^{re.escape(name)}\{{(.*)\}} ", exposition, re.M)
    return dict(LABEL.findall(line[1])) if line else {}


def total(values: dict[str, list[float]], name: str) -> int | None:
    """A count over all its labels, such as the engines of one server; None where there is none of that name."""
    return round(sum(values[name])) if name in values else None


def greatest(values: dict[str, list[float]], *names: str) -> float | None:
    """Of all labels and of the names that an engine has had for it; None where there is none."""
    return max((value for name in names for value in values.get(name, [])), default=None)
