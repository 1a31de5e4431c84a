"""The base's weights as accepted, kept beside the golden records under their own hash."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from probes.base_files import base_hash
from probes.golden import short


def keep(base: Path, golden_dir: Path) -> Path:
    """Hard-link, or copy, a base folder to ``golden_dir/weights/<hex>``; returns that folder. Done once per hash.

    base: folder with safetensors, config and tokenizer. Raises Unreplayable when it cannot be read.
    A link costs nothing and survives a release that replaces the file; a release that writes *into* the file would
    change both, and the hash in the name then gives it away.
    """
    found = base_hash(base)
    target = folder_of(golden_dir, found)
    if target.is_dir():
        return target
    fresh = target.with_name(f"{target.name}.{os.getpid()}")
    fresh.mkdir(parents=True)
    for file in base.iterdir():
        if file.is_file():
            _link(file.resolve(), fresh / file.name)
    fresh.rename(target)
    return target


def find(golden_dir: Path, accepted: str) -> Path | None:
    """The kept weights of that hash, None when they were not kept or no longer have it."""
    folder = folder_of(golden_dir, accepted)
    return folder if folder.is_dir() and base_hash(folder) == accepted else None


def folder_of(golden_dir: Path, accepted: str) -> Path:
    """Where a base of that hash would lie."""
    return golden_dir / "weights" / short(accepted)


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # another file system
        shutil.copyfile(source, target)
