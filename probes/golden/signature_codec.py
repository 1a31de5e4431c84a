"""Recorded signatures as compact arrays, and back: how the adapter answers under each fault. Enrolments of earlier
versions recorded them; now they are made after an alarm (probes/causes/).

Written as differences in steps of 1/1024 nat: of the served side from the golden adapter's log-probabilities, of the
base's side from the golden base's. That rounds by at most .0005 nats, and clips differences at 32 nats. It halves the
file at no cost: signatures are only compared to within 5 % of their energy, and evidence rests on the float32 part of
the record alone. Fixed steps and not float16: reading and writing again gives the same bytes, which are hashed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.records import CanarySplit, Fault, FaultKind, Floats, Ints, Recorded, Reference, Summary
from probes.errors import Refused
from probes.golden.record import GoldenCanary

Arrays = dict[str, NDArray[Any]]
Row = dict[str, Any]
FAULTS = "faults"
STEP = 1 / 1024
WIDEST = 32.0


def signature_text(canaries: Sequence[GoldenCanary]) -> dict[str, list[Row]]:
    """The list of recorded faults, for the record's JSON; an empty dict where there are none."""
    first = next((canary.reference for canary in canaries if canary.reference.faults), None)
    if first is None:
        return {}
    rows = [_row(fault, first.faults[fault]) for fault in sorted(first.faults)]
    return {FAULTS: rows}


def signature_arrays(references: Sequence[Reference]) -> Arrays:
    """``fault.N.served`` and ``fault.N.base``: (M,) int16 over the kept tokens of all held-out canaries.

    Raises Refused where not all held-out canaries have the same signatures, or another canary has any.
    """
    held_out = [reference for reference in references if reference.split is CanarySplit.HELD_OUT]
    faults = {frozenset(reference.faults) for reference in held_out}
    stray = [ref.canary for ref in references if ref.split is not CanarySplit.HELD_OUT and ref.faults]
    if len(faults) > 1 or stray:
        present = f"on {', '.join(stray)}" if stray else "different ones on different canaries"
        raise Refused("signatures", present, "the same ones on every held-out canary, none on others")
    arrays: Arrays = {}
    for index, fault in enumerate(sorted(next(iter(faults), frozenset()))):
        served = [_to_steps(ref, ref.faults[fault].served, ref.golden_adapter) for ref in held_out]
        arrays[f"fault.{index}.served"] = np.concatenate(served)
        bases = [
            _to_steps(ref, base, ref.golden_base)
            for ref in held_out
            if (base := ref.faults[fault].live_base) is not None
        ]
        if bases:
            arrays[f"fault.{index}.base"] = np.concatenate(bases)
    return arrays


class SignatureReader:
    """Cuts the signatures of one held-out canary after another from the arrays, in the order they were written.

    rows: of ``signature_text``
    """

    def __init__(self, arrays: Arrays, rows: Sequence[Row]) -> None:
        self._arrays, self._rows, self._entry = arrays, rows, 0

    def of(self, kept: Ints, sides: Mapping[str, Summary]) -> dict[Fault, Recorded]:
        """kept: (T, K) of the next held-out canary; sides: its golden_adapter and golden_base."""
        entries = slice(self._entry, self._entry + int((kept >= 0).sum()))
        self._entry = entries.stop
        recorded = {}
        for index, row in enumerate(self._rows):
            served = _from_steps(kept, self._arrays[f"fault.{index}.served"][entries], sides["golden_adapter"])
            base = self._arrays[f"fault.{index}.base"][entries] if row["base"] else None
            live_base = None if base is None else _from_steps(kept, base, sides["golden_base"])
            recorded[Fault(FaultKind(row["kind"]), row["name"])] = Recorded(served, live_base)
        return recorded


def _row(fault: Fault, recorded: Recorded) -> Row:
    return {"kind": fault.kind.value, "name": fault.name, "base": recorded.live_base is not None}


def _to_steps(reference: Reference, table: Floats, golden: Summary) -> NDArray[np.int16]:
    used = reference.kept >= 0
    # The upper end is one step short of WIDEST: 32,767 is the largest int16.
    difference = np.clip(table[used].astype(np.float64) - golden.log_probs[used], -WIDEST, WIDEST - STEP)
    return np.round(difference / STEP).astype(np.int16)


def _from_steps(kept: Ints, flat: NDArray[np.int16], golden: Summary) -> Floats:
    table = np.full(kept.shape, -np.inf, np.float32)
    used = kept >= 0
    table[used] = golden.log_probs[used] + flat * np.float32(STEP)
    return table
