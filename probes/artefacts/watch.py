"""Has a watched folder or file changed, and has it come to rest?

``stamp`` reads the file system; ``Watch`` is a pure state machine over stamps. Only a stamp seen twice in a row is
loaded, so a copy under way is never read half (design.md 12.2).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

SUFFIXES = {".safetensors", ".bin", ".gguf", ".json", ".jinja", ".model", ".txt"}
# Of vocabularies of other makes (identity.TOKENIZER_FILES).
SUFFIXES |= {".tiktoken", ".spm", ".codes", ".tokenizer", ".v1", ".v2", ".v3", ".v7", ".v11"}
WEIGHTS = {".safetensors", ".bin", ".gguf"}


@dataclass(frozen=True, slots=True)
class Entry:
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
class Stamp:
    """The relevant files at one moment, sorted by name; empty when nothing is there."""

    root: str
    entries: tuple[Entry, ...]

    @property
    def names(self) -> frozenset[str]:
        return frozenset(entry.name for entry in self.entries)

    @property
    def has_weights(self) -> bool:
        return any(Path(name).suffix in WEIGHTS for name in self.names)


def stamp(path: Path) -> Stamp:
    """Sizes and times of a file, or of the model files directly in a folder. What is away is not in it."""
    try:
        names = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.suffix in SUFFIXES)
    except OSError:
        names = []
    entries = [entry for name in names if (entry := _entry(name)) is not None]
    return Stamp(str(path), tuple(entries))


def _entry(path: Path) -> Entry | None:
    try:
        seen = path.stat()  # follows links: a hub snapshot and a mounted ConfigMap are links whose target moves
    except OSError:
        return None
    return Entry(path.name, seen.st_size, seen.st_mtime_ns, seen.st_ino)


class Step(StrEnum):
    """What a look asks for."""

    READY = "ready"  # what is loaded is what lies there
    LOAD = "load"  # new and at rest: read it now
    CHANGING = "changing"  # new, not yet at rest
    GONE = "gone"  # no weights there


@dataclass(frozen=True, slots=True)
class Watch:
    """What was loaded and what was seen last. loaded: None before the first load and after a failed one."""

    loaded: Stamp | None = None
    seen: Stamp | None = None

    def look(self, now: Stamp) -> tuple[Watch, Step, str]:
        """The next state, what to do, and why in words. A failed load is asked for again at each look."""
        at_rest = now == self.seen
        after = replace(self, seen=now)
        if not now.has_weights:
            return after, Step.GONE, self._gone(now)
        if now == self.loaded:
            return after, Step.READY, ""
        return after, Step.LOAD if at_rest else Step.CHANGING, self._difference(now)

    def took(self, loaded: Stamp) -> Watch:
        """After a load that succeeded and found this stamp both before and after."""
        return Watch(loaded, loaded)

    def failed(self) -> Watch:
        """After a load that did not succeed: nothing is loaded, the same files are tried again."""
        return replace(self, loaded=None)

    def _gone(self, now: Stamp) -> str:
        lost = sorted(self.loaded.names - now.names) if self.loaded else []
        if lost:
            return f"{now.root}: {', '.join(lost)} gone"
        return f"{now.root}: no model files there"

    def _difference(self, now: Stamp) -> str:
        before = {entry.name: entry for entry in (self.seen or now).entries}
        moved = [e.name for e in now.entries if before.get(e.name) != e] + sorted(set(before) - now.names)
        return f"{now.root}: {', '.join(moved) or 'files'} changed, waiting for two equal looks"
