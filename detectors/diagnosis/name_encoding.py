"""What the name of a fault encodes beside an adapter's name: "NAME*0.5", so much of it, and "NAME@HASH", a release.

Adapters may have any printable name, ``base@v2`` and ``a*0.5`` too: a name is read as encoded only where it was. Golden
records store these names, so that what was written has to stay readable.
"""

from __future__ import annotations

from detectors.records import Fault, FaultKind


def part_of(fault: Fault) -> tuple[str, float]:
    """Which other adapter, and how much of it: "NAME*0.5", else 1 on top or taken away, or one half of an average."""
    name, star, part = fault.name.rpartition("*")
    if star and part.replace(".", "", 1).isdigit():
        return name, float(part)
    return fault.name, 0.5 if fault.kind is FaultKind.AVERAGED else 1.0


def mixture(kind: FaultKind, other: str, part: str = "") -> Fault:
    """Another adapter on top, mixed in or taken away; ``part_of`` reads it again. part: "*0.5", "" for the usual."""
    whole = "*0.5" if kind is FaultKind.AVERAGED else "*1"
    reads_as_part = part_of(Fault(kind, other))[0] != other
    return Fault(kind, f"{other}{part or (whole if reads_as_part else '')}")


def earlier_version(adapter: str, digits: str) -> str:
    """The name of a release of this adapter. digits: the first twelve of its hash."""
    return f"{adapter}@{digits}"


def is_earlier_version(name: str, adapter: str) -> bool:
    """Did ``earlier_version`` make this name from that adapter's?"""
    of_adapter, _, digits = name.rpartition("@")
    return of_adapter == adapter and len(digits) == 12 and not set(digits) - set("0123456789abcdef")
