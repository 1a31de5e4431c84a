"""What a fault's name says beside the name: how much of another adapter."""

from __future__ import annotations

from detectors.records import Fault, FaultKind


def part_of(fault: Fault) -> tuple[str, float]:
    """Which other adapter, and how much of it: "NAME*0.5", else 1 on top or one half of an average."""
    name, star, part = fault.name.rpartition("*")
    if star and part.replace(".", "", 1).isdigit():
        return name, float(part)
    return fault.name, 1.0 if fault.kind is FaultKind.STACKED else 0.5
