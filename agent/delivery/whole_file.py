"""A file that is written whole or not at all, also over a loss of power."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

# For this user alone: what is kept may hold words of production.
_MODE = 0o600


def write_whole(file: Path, content: bytes) -> None:
    """Write another file beside it (``.new``), sync it, rename it, sync the folder: a reader sees what lay there before
    or ``content``, never half of it. Its folder is made where it is missing. Raises OSError; half a file then takes no
    room."""
    fresh = file.with_suffix(".new")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _MODE), "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(file)
    except OSError:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise
    _sync_folder(file.parent)


def _sync_folder(folder: Path) -> None:
    """A rename is on disk with its folder. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
