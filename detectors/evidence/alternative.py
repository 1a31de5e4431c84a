"""Who else could have written a response: the alternatives that likelihood ratios bet on, against the accepted adapter.

Stored, and therefore fixed: ``Alternative.text`` (keys of ``log_l`` in ClickHouse and of saved evidence), its repr
(configs in state files of earlier versions), and the fields of ``Alternative`` with the values of ``AlternativeKind``
(configs in state files since). With another field, evidence that was saved before starts at 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum


class AlternativeKind(StrEnum):
    """What may answer under an adapter's name instead of what was accepted."""

    BASE = "base"  # the accepted base without any adapter
    INTERPOLATION = "interpolation"  # a point of the interpolation path between base and adapter
    STRENGTH = "strength"  # the accepted adapter at another LoRA strength
    FOUR_BITS = "four_bits"  # the accepted adapter on a base of 4-bit weights
    PREVIOUS = "previous"  # the version of this adapter that was accepted before
    OTHER_ADAPTER = "other_adapter"  # another registered adapter
    WITHOUT = "without"  # the accepted adapter without one of its blocks
    ROUNDED = "rounded"  # the accepted adapter on a base whose weights are rounded in another way than FOUR_BITS
    UNKNOWN = "unknown"  # stored by a version of gapwatch that knows more alternatives


STRENGTHS = {0.5: "half", 2.0: "double"}
PATH, ADAPTER, LACKS, ROUNDED_TO = "path ", "adapter:", "without ", "rounded "


@dataclass(frozen=True, slots=True, repr=False)
class Alternative:
    """One alternative; build it with the functions and constants of this file.

    name: of the other adapter; of an INTERPOLATION "", or the adapter that it leads to from the base; of WITHOUT the
    block, of ROUNDED the bits (names of detectors.records.FaultKind); the whole text of an UNKNOWN one; "" else
    strength: of an INTERPOLATION the share of the way from base (0) to adapter (1), in log-probabilities; of a STRENGTH
    what multiplies the LoRA's own scaling, one of ``STRENGTHS``; 1 else
    """

    kind: AlternativeKind
    name: str = ""
    strength: float = 1.0

    @property
    def text(self) -> str:
        """The one text form; ``from_text`` gives back an equal alternative."""
        match self.kind:
            case AlternativeKind.BASE:
                return "base"
            case AlternativeKind.INTERPOLATION:
                return f"{PATH}{_number(self.strength)}" + (f" {ADAPTER}{self.name}" if self.name else "")
            case AlternativeKind.STRENGTH:
                return STRENGTHS[self.strength]
            case AlternativeKind.FOUR_BITS:
                return "4 bits"
            case AlternativeKind.PREVIOUS:
                return "previous"
            case AlternativeKind.OTHER_ADAPTER:
                return f"{ADAPTER}{self.name}"
            case AlternativeKind.WITHOUT:
                return f"{LACKS}{self.name}"
            case AlternativeKind.ROUNDED:
                return f"{ROUNDED_TO}{self.name}"
            case AlternativeKind.UNKNOWN:
                return self.name

    @classmethod
    def from_text(cls, text: str) -> Alternative:
        """The inverse of ``text``. A text that no alternative of this version has is UNKNOWN and keeps its text."""
        if text in FIXED:
            return FIXED[text]
        if text.startswith(ADAPTER):
            return other_adapter(text.removeprefix(ADAPTER))
        if text.startswith(LACKS):
            return without(text.removeprefix(LACKS))
        if text.startswith(ROUNDED_TO) and rounded(text.removeprefix(ROUNDED_TO)).text == text:
            return rounded(text.removeprefix(ROUNDED_TO))
        digits, _, adapter = text.removeprefix(PATH).partition(f" {ADAPTER}")
        share = _share(digits) if text.startswith(PATH) else math.nan
        if math.isfinite(share) and interpolation(share, adapter).text == text:
            return interpolation(share, adapter)
        return cls(AlternativeKind.UNKNOWN, text)

    def __repr__(self) -> str:
        """That of its text, as configs saved by earlier versions have it (detectors/saved_config.py)."""
        return repr(self.text)


BASE = Alternative(AlternativeKind.BASE)
HALF_STRENGTH = Alternative(AlternativeKind.STRENGTH, strength=0.5)
DOUBLE_STRENGTH = Alternative(AlternativeKind.STRENGTH, strength=2.0)
FOUR_BITS = Alternative(AlternativeKind.FOUR_BITS)
FOUR = "4"
PREVIOUS = Alternative(AlternativeKind.PREVIOUS)
FIXED = {alternative.text: alternative for alternative in (BASE, HALF_STRENGTH, DOUBLE_STRENGTH, FOUR_BITS, PREVIOUS)}


def interpolation(share: float, adapter: str = "") -> Alternative:
    """share: of the way from base (0) to adapter (1), finite; adapter: "" for the one that the response is of"""
    return Alternative(AlternativeKind.INTERPOLATION, adapter, share)


def other_adapter(name: str) -> Alternative:
    """name: of a registered adapter, any text"""
    return Alternative(AlternativeKind.OTHER_ADAPTER, name)


def without(block: str) -> Alternative:
    """block: of the accepted adapter, a name of ``FaultKind.WITHOUT``, not empty"""
    return Alternative(AlternativeKind.WITHOUT, block)


def rounded(bits: str) -> Alternative:
    """bits: a name of ``FaultKind.QUANTISED``; "4" is the alternative that earlier versions stored as "4 bits" """
    return FOUR_BITS if bits == FOUR else Alternative(AlternativeKind.ROUNDED, bits)


def _number(value: float) -> str:
    """Six digits where they are the number, all of them where they are not."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def _share(digits: str) -> float:
    try:
        return float(digits)
    except ValueError:
        return math.nan
