"""A file that this version cannot use is kept under another name, so that nothing is written over it."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)


def set_aside(path: Path, why: str) -> Path:
    """Rename a file or folder to ``NAME.damaged``, or ``NAME.damaged-2`` ... where that is taken; gives the new path.

    Raises OSError where the folder cannot be changed: the file then lies where it lay.
    """
    names = (path.with_suffix(".damaged" + (f"-{n}" if n > 1 else "")) for n in count(1))
    free = next(name for name in names if not name.exists() and not name.is_symlink())
    path.rename(free)
    log.warning("file_set_aside", path=str(path), now=free.name, why=why)
    return free
