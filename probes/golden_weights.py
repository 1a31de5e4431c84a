"""The base's weights as accepted, kept beside the golden records under their own hash."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from probes.base_files import base_hash
from probes.errors import Unreplayable
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
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        for file in base.iterdir():
            if file.is_file():
                _link(file.resolve(), fresh / file.name)
        fresh.chmod(0o755)  # kept by one user, read by the sidecar's
        _put(fresh, target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return target


def find(golden_dir: Path, accepted: str) -> Path | None:
    """The kept weights of that hash, None when they were not kept, are torn or no longer have it."""
    folder = folder_of(golden_dir, accepted)
    try:
        return folder if folder.is_dir() and base_hash(folder) == accepted else None
    except Unreplayable:
        return None


def folder_of(golden_dir: Path, accepted: str) -> Path:
    """Where a base of that hash would lie."""
    return golden_dir / "weights" / short(accepted)


def _put(fresh: Path, target: Path) -> None:
    """The whole folder or nothing; another process that was quicker has put the same content there."""
    try:
        fresh.rename(target)
    except OSError:
        if not target.is_dir():
            raise


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # another file system
        shutil.copyfile(source, target)
