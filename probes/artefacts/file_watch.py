"""Has a watched folder or file changed, and has it come to rest?

``list_files`` reads the file system; ``FileWatch`` is a pure state machine over what it returned. Only a listing that
two looks in a row agree on is loaded, so that a copy in progress is never read
(docs/architecture.md#when-files-change).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

SUFFIXES = {
    ".safetensors", ".bin", ".gguf", ".json", ".jinja", ".model", ".txt", ".tiktoken", ".spm", ".codes", ".tokenizer",
}  # fmt: skip
# Files that no suffix covers.
FURTHER_PATTERNS = ("*.model.v*", "additional_chat_templates/*.jinja")
WEIGHTS = {".safetensors", ".bin", ".gguf"}


@dataclass(frozen=True, slots=True)
class FileStat:
    """One file. name: relative to the watched place; mtime_ns: nanoseconds.

    inode: two LoRA files of one shape have one size, and unpacking an archive may set one modification time, so size
    and mtime alone can miss a file put in another's place. Not the inode's change time: a hard link made elsewhere,
    as backups and ``keep_golden_weights`` make them, moves that without touching a byte.
    """

    name: str
    size: int
    mtime_ns: int
    inode: int


@dataclass(frozen=True, slots=True)
class FileListing:
    """The relevant files at one moment, sorted by name; empty when there are none. fault: why they cannot be listed"""

    root: str
    files: tuple[FileStat, ...]
    fault: str = ""

    @property
    def names(self) -> frozenset[str]:
        return frozenset(file.name for file in self.files)

    @property
    def has_weights(self) -> bool:
        return any(Path(name).suffix in WEIGHTS for name in self.names)


def list_files(path: Path) -> FileListing:
    """Sizes, times and inodes of a file, or of the model files in a folder. Files that do not exist are left out."""
    try:
        root, files = (path.parent, [path]) if path.is_file() else (path, _model_files(path))
    except (FileNotFoundError, NotADirectoryError):
        return FileListing(str(path), ())
    except OSError as error:  # of this place alone: others of the same base are looked at all the same
        return FileListing(str(path), (), error.strerror or type(error).__name__)
    stats = [stat for file in files if (stat := _stat(file, str(file.relative_to(root)))) is not None]
    return FileListing(str(path), tuple(stats))


def _model_files(folder: Path) -> list[Path]:
    further = {file for pattern in FURTHER_PATTERNS for file in folder.glob(pattern)}
    return sorted(further | {file for file in folder.iterdir() if file.suffix in SUFFIXES})


def _stat(path: Path, name: str) -> FileStat | None:
    try:
        stat = path.stat()  # follows links: a hub snapshot and a mounted ConfigMap are links whose target moves
    except OSError:
        return None
    return FileStat(name, stat.st_size, stat.st_mtime_ns, stat.st_ino)


class WatchOutcome(StrEnum):
    """What one look at the files says, and so what to do."""

    READY = "ready"  # what is loaded is what lies there
    LOAD = "load"  # new and at rest: read it now
    CHANGING = "changing"  # new, not yet at rest
    GONE = "gone"  # no weights there


@dataclass(frozen=True, slots=True)
class FileWatch:
    """Two listings: of the files that are loaded, and of the last look.

    loaded: None before the first load and after a failed one; last_look: None before the first look
    """

    loaded: FileListing | None = None
    last_look: FileListing | None = None

    def look(self, now: FileListing) -> tuple[FileWatch, WatchOutcome, str]:
        """The next state, the outcome, and why in words. After a failed load, files at rest are LOAD at each look."""
        at_rest = now == self.last_look
        after = replace(self, last_look=now)
        if not now.has_weights:
            return after, WatchOutcome.GONE, self._gone(now)
        if now == self.loaded:
            return after, WatchOutcome.READY, ""
        return after, WatchOutcome.LOAD if at_rest else WatchOutcome.CHANGING, self._difference(now)

    def took(self, loaded: FileListing) -> FileWatch:
        """After a load that succeeded, with this listing both before and after it."""
        return FileWatch(loaded, loaded)

    def failed(self) -> FileWatch:
        """After a load that did not succeed: nothing is loaded, the same files are tried again."""
        return replace(self, loaded=None)

    def _gone(self, now: FileListing) -> str:
        if now.fault:
            return f"{now.root}: {now.fault}, wanted a folder that user {os.getuid()} may read"
        lost = sorted(self.loaded.names - now.names) if self.loaded else []
        if lost:
            return f"{now.root}: {', '.join(lost)} gone"
        return f"{now.root}: no model files there"

    def _difference(self, now: FileListing) -> str:
        before = {file.name: file for file in (self.last_look or now).files}
        changed = [file.name for file in now.files if before.get(file.name) != file] + sorted(set(before) - now.names)
        return f"{now.root}: {', '.join(changed) or 'files'} changed, waiting for two equal looks"
