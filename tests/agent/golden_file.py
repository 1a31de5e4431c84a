"""Whole outputs held against files that a person has read. GAPWATCH_WRITE_GOLDEN=1 writes them anew; read the diff."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).parent / "golden"


def assert_golden(name: str, seen: str) -> None:
    """``seen`` is, character for character, what the file says."""
    file = FOLDER / name
    if os.environ.get("GAPWATCH_WRITE_GOLDEN"):
        file.write_text(seen, encoding="utf-8")
    assert seen == file.read_text(encoding="utf-8"), f"{name} differs; GAPWATCH_WRITE_GOLDEN=1 writes it anew"
