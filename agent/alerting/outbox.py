"""A small bounded queue on disk: what is in it is sent sooner or later, also after a restart.

One file an entry, named by its number, written whole or not at all (temporary file, fsync, rename, fsync of the
folder). One process at a time owns the folder.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import structlog

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """One event to send. key: entries of one key keep their order; droppable: goes first when the box is full.

    after: a key whose earlier entries must be sent first
    """

    number: int
    key: str
    path: str
    body: dict[str, Any]
    droppable: bool = False
    after: str = ""


class Outbox:
    """Entries in order of arrival; safe for one thread that adds and one that sends."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit = folder, limit
        self._lock = threading.Lock()
        self._entries: dict[int, Entry] = {}
        self._unwritten: set[int] = set()
        self._undeleted: set[int] = set()
        self._next = 0
        self.dropped = 0

    def open(self) -> None:
        """Load what an earlier process left. A file that cannot be read is renamed."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(self._folder.glob("*.json")):
            try:
                entry = Entry(**orjson.loads(file.read_bytes()))
            except (OSError, TypeError, orjson.JSONDecodeError) as error:
                log.warning("outbox_entry_set_aside", file=file.name, why=type(error).__name__)
                file.replace(file.with_suffix(".damaged"))
                continue
            self._entries[entry.number] = entry
            self._next = entry.number + 1

    def add(self, key: str, path: str, body: dict[str, Any], droppable: bool = False, after: str = "") -> bool:
        """Keep one event. False when the disk refuses it: it is then in memory alone, and written when that works."""
        with self._lock:
            entry = Entry(self._next, key, path, body, droppable, after)
            self._next += 1
            self._entries[entry.number] = entry
            self._unwritten.add(entry.number)
            self._make_room()
        return self.sync()

    def sync(self) -> bool:
        """Write what is not on disk yet. True when every entry is there."""
        with self._lock:
            self._undeleted = {number for number in self._undeleted if not self._delete(number)}
            for number in sorted(self._unwritten):
                if not self._write(self._entries[number]):
                    return False
                self._unwritten.discard(number)
            return True

    def first(self, not_before: Collection[str] = ()) -> Entry | None:
        """The oldest entry whose key is not in ``not_before`` and that needs no earlier entry to be sent first."""
        waiting, blocked = set[str](), set(not_before)
        with self._lock:
            for entry in self._entries.values():
                if entry.key not in blocked and entry.after not in waiting:
                    return entry
                waiting.add(entry.key)
                blocked.add(entry.key)
        return None

    def remove(self, entry: Entry) -> None:
        with self._lock:
            self._forget(entry.number)

    def __len__(self) -> int:
        with self._lock:
            return len(self._entries)

    def _make_room(self) -> None:
        while len(self._entries) > self._limit:
            oldest = next((e for e in self._entries.values() if e.droppable), next(iter(self._entries.values())))
            self._forget(oldest.number)
            self.dropped += 1

    def _forget(self, number: int) -> None:
        self._entries.pop(number, None)
        self._unwritten.discard(number)
        if not self._delete(number):
            log.error("outbox_not_deleted", folder=str(self._folder), file=self._file(number).name)
            self._undeleted.add(number)

    def _delete(self, number: int) -> bool:
        try:
            self._file(number).unlink(missing_ok=True)
        except OSError:  # a disk that became read-only: the entry was sent, its file is deleted when that works
            return False
        return True

    def _file(self, number: int) -> Path:
        return self._folder / f"{number:012d}.json"

    def _write(self, entry: Entry) -> bool:
        file = self._file(entry.number)
        fresh = file.with_suffix(".new")
        try:
            with fresh.open("wb") as stream:
                stream.write(orjson.dumps(entry))
                stream.flush()
                os.fsync(stream.fileno())
            fresh.replace(file)
            _sync_folder(self._folder)
        except OSError as error:
            log.error("outbox_not_written", folder=str(self._folder), why=error.strerror)
            return False
        return True


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
