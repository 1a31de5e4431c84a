"""Arrays as JSON and back, to the last bit: a restart may neither lose nor invent evidence.

Saved state has this form: what ``pack`` wrote once, ``unpack`` has to read.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def pack(values: NDArray[np.floating[Any]]) -> list[Any]:
    """Nested lists of floats, whose repr is exact; -inf, inf and nan as text, which JSON has no numbers for."""
    if values.ndim > 1:
        return [pack(row) for row in values]
    return [float(x) if np.isfinite(x) else str(float(x)) for x in values]


def unpack(stored: Sequence[Any]) -> NDArray[np.float64]:
    """The array that ``pack`` was given, as float64."""
    if stored and isinstance(stored[0], list):
        return np.array([unpack(row) for row in stored], dtype=np.float64)
    return np.array([float(x) for x in stored], dtype=np.float64)


def pack_steps(values: NDArray[np.int16]) -> str:
    """Whole numbers of two bytes, little-endian, as base64: 2.7 bytes each, where digits would be seven."""
    return base64.b64encode(values.astype("<i2").tobytes()).decode()


def unpack_steps(stored: str, columns: int) -> NDArray[np.int16]:
    """The rows that ``pack_steps`` was given, (n, columns)."""
    return np.frombuffer(base64.b64decode(stored), "<i2").astype(np.int16).reshape(-1, columns)
