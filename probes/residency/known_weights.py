"""Which weights were read before, by their files, so that a file is not read a second time to learn its hash.

A kept copy of an accepted base is often a hard link to the live one, and a base that went comes back. A file counts as
the same while its device, inode, size and modification time are: the same trust as in probes/artefacts/file_watch.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from probes.artefacts.safetensors_header import weight_files
from probes.errors import Unreplayable

# Bases that a runner meets in its life are few; each entry is a hundred bytes a file.
MOST = 64


class FileKey(NamedTuple):
    """One file, under whatever name. mtime_ns: nanoseconds"""

    device: int
    inode: int
    size: int
    mtime_ns: int


Files = tuple[FileKey, ...]


def files_of(folder: Path) -> Files:
    """The files that hold a model's weights, as they are now, in their order. Raises Unreplayable."""
    try:
        stats = [path.stat() for path in weight_files(folder)]
    except OSError as error:
        raise Unreplayable(str(error.filename or folder), error.strerror or str(error)) from error
    return tuple(FileKey(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats)


class KnownWeights:
    """Digests of tensors by the files that they were read from."""

    def __init__(self) -> None:
        self._digests: dict[Files, str] = {}

    def digest(self, files: Files) -> str | None:
        """Of these files, None where they were not read as they are now."""
        return self._digests.get(files)

    def note(self, folder: Path, before: Files, digest: str) -> None:
        """They were read. before: the files before that; what changed meanwhile is not noted. Raises Unreplayable."""
        if files_of(folder) != before:
            return
        self._digests[before] = digest
        if len(self._digests) > MOST:
            del self._digests[next(iter(self._digests))]
