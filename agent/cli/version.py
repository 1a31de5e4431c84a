"""gapwatch --version: versions from the metadata of the installed packages; nothing is imported."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version

# Packages that affect how a canary is answered, or in which format rows are stored.
REPORTED = ("torch", "transformers", "chdb")


def print_versions() -> int:
    """One line each: the program, Python, and the packages of the extras."""
    lines = [f"gapwatch {_version('gapwatch')}", f"Python {platform.python_version()}"]
    sys.stdout.write("\n".join([*lines, *(f"{name} {_version(name)}" for name in REPORTED)]) + "\n")
    return 0


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
