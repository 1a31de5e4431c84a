"""Whole outputs held against files that a person has read. GAPWATCH_WRITE_GOLDEN=1 rewrites them; read the diff."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).parent / "golden"


def assert_golden(name: str, output: str) -> None:
    """The output equals the file, character for character."""
    file = FOLDER / name
    if os.environ.get("GAPWATCH_WRITE_GOLDEN"):
        file.write_text(output, encoding="utf-8")
    assert output == file.read_text(encoding="utf-8"), f"{name} differs; GAPWATCH_WRITE_GOLDEN=1 rewrites it"
