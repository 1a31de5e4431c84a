"""A small bounded queue on disk: what is in it is sent sooner or later, also after a restart.

One file an entry, named by its number, written whole or not at all. One process at a time owns the folder. Adding waits
for no disk: files are written by the disk's thread (disk.py). Where the folder cannot be used, entries are kept in
memory and written as soon as it can; ``trouble`` says so until then. What the receiver refuses for good lies beside
them, with the reason, as ``NUMBER.refused``: the latest KEPT_REFUSED of these.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from agent.alerting.set_aside import set_aside
from agent.delivery.disk import Disk
from agent.delivery.whole_file import write_whole
from agent.trouble import Trouble

# While the folder cannot be listed, numbers begin at random above this: no earlier process's file can have them, and
# what it left has lower ones, so it is sent first. Twelve digits are the file's name.
_UNLISTED, _HIGHEST = 10**11, 9 * 10**11
KEPT_REFUSED = 20


@dataclass(frozen=True, slots=True)
class Entry:
    """One event to send. key: entries of one key to one owner keep their order; droppable: goes first when the box is
    full.

    after: a key whose earlier entries, to whichever owner, must be sent first
    owner: whose service gets it, "" for the one that gets all without an owner
    is_update: is it about an incident that was reported before, so that it should wake nobody?
    """

    number: int
    key: str
    path: str
    body: dict[str, Any]
    droppable: bool = False
    after: str = ""
    owner: str = ""
    is_update: bool = False


class Outbox:
    """Entries in order of arrival; safe for one thread that adds, one that sends, and the disk's.

    part: what uses the outbox, as /readyz and the log name it; disk: what writes its files, at once where it is not
    open
    """

    def __init__(self, folder: Path, limit: int, part: str = "outbox", disk: Disk | None = None) -> None:
        self._folder, self._limit = folder, limit
        self._disk = disk or Disk()
        # Of the two the files' is taken first, and the loop takes the entries' alone.
        self._of_files, self._lock = threading.Lock(), threading.Lock()
        self._entries: dict[int, Entry] = {}
        self._unwritten: set[int] = set()
        self._undeleted: set[int] = set()
        self._all_read = False
        self._next = secrets.randbelow(_HIGHEST - _UNLISTED) + _UNLISTED
        self._trouble = Trouble(part)
        self.dropped = 0

    @property
    def trouble(self) -> str:
        """Why the folder cannot be used, and what that costs; "" where it can."""
        return str(self._trouble)

    def open(self) -> None:
        """Load what an earlier process left. A file that holds no entry of this version is renamed."""
        self.sync()

    def add(self, key: str, path: str, body: dict[str, Any], **more: Any) -> bool:
        """Keep one event. False while it is not on disk: it is then in memory alone, and written when that works.

        more: fields of Entry
        """
        with self._lock:
            entry = Entry(self._next, key, path, body, **more)
            self._next += 1
            self._entries[entry.number] = entry
            self._unwritten.add(entry.number)
            self._make_room()
        return self.flush()

    def flush(self) -> bool:
        """Has the disk do what it has not yet done. True when every entry is there (or was sent)."""
        self._disk.put_once(self.sync)
        with self._lock:
            return not self._unwritten

    def sync(self) -> bool:
        """Read, write and delete what the folder has refused so far. True when every entry is on disk."""
        with self._of_files:
            faults = [*self._read_earlier(), *self._write_waiting()]
            self._delete_sent()
            with self._lock:
                unwritten, undeleted = bool(self._unwritten), bool(self._undeleted)
            if undeleted:
                faults.append("what was sent cannot be deleted, and is sent again after a restart")
            if faults:
                self._trouble.begin(_words(faults[0], unwritten))
            else:
                self._trouble.end()
            return not unwritten

    def first(self, is_due: Callable[[Entry], bool] = lambda _: True) -> Entry | None:
        """The oldest entry that is due, behind none of its own key and owner, and needs no earlier entry sent first."""
        waiting, blocked = set[str](), set[tuple[str, str]]()
        with self._lock:
            for entry in self._entries.values():
                lane = (entry.owner, entry.key)
                if lane not in blocked and entry.after not in waiting and is_due(entry):
                    return entry
                waiting.add(entry.key)
                blocked.add(lane)
        return None

    def remove(self, entry: Entry) -> None:
        """It was sent. Waits for the disk, as the thread that sends may."""
        with self._lock:
            self._forget(entry.number)
        with self._of_files:
            self._delete_sent()

    def refuse(self, entry: Entry, why: str) -> None:
        """It is not sent again: its file goes, and what it held stays beside it with the reason, if the disk allows."""
        with suppress(OSError):
            earlier = sorted(file for file in self._folder.glob("*.refused") if file.stem.isdecimal())
            ordinal = int(earlier[-1].stem) + 1 if earlier else 0
            kept = self._folder / f"{ordinal:012d}.refused"
            kept.write_bytes(orjson.dumps(_stored(entry) | {"why": why}))
            for file in earlier[: -KEPT_REFUSED + 1]:
                file.unlink(missing_ok=True)
        self.remove(entry)

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
        self._undeleted.add(number)

    def _delete_sent(self) -> None:
        with self._lock:
            numbers = sorted(self._undeleted)
        deleted = {number for number in numbers if self._delete(number)}
        with self._lock:
            self._undeleted -= deleted

    def _delete(self, number: int) -> bool:
        try:
            self._file(number).unlink(missing_ok=True)
        except NotADirectoryError:  # the folder is a file, which holds no entry
            return True
        except OSError:  # a disk that became read-only: the entry was sent, its file is deleted when that works
            return False
        return True

    def _file(self, number: int) -> Path:
        return self._folder / f"{number:012d}.json"

    def _read_earlier(self) -> list[str]:
        """Why the folder cannot be used, or not all of what an earlier process left be read; tried at each call."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            files = [] if self._all_read else sorted(file for file in self._folder.iterdir() if file.suffix == ".json")
        except OSError as error:
            return [_why(error)]
        faults = [] if os.access(self._folder, os.R_OK | os.W_OK | os.X_OK) else ["no right to change it"]
        if not self._all_read:
            unread = [why for file in files if (why := self._read(file))]
            with self._lock:
                self._all_read = not unread
                self._entries = dict(sorted(self._entries.items()))
                if self._all_read:
                    self._next = max(self._entries, default=-1) + 1
            faults += unread
        return faults

    def _read(self, file: Path) -> str:
        """Take up one file of an earlier process; "", or why it could not be read or renamed."""
        try:
            with self._lock:
                if file.stem.isdecimal() and (int(file.stem) in self._entries or int(file.stem) in self._undeleted):
                    return ""
            entry = _entry(file)
            if entry is None:
                set_aside(file, "no entry of this version")
            else:
                with self._lock:
                    self._entries[entry.number] = entry
        except OSError as error:
            return f"{file.name}: {_why(error)}"
        return ""

    def _write_waiting(self) -> list[str]:
        with self._lock:
            waiting = [self._entries[number] for number in sorted(self._unwritten)]
        for entry in waiting:
            with self._lock:
                if entry.number not in self._unwritten:  # sent meanwhile
                    continue
            try:
                write_whole(self._file(entry.number), orjson.dumps(_stored(entry)))
            except OSError as error:
                return [_why(error)]
            with self._lock:
                self._unwritten.discard(entry.number)
        return []


def _words(fault: str, unwritten: bool) -> str:
    kept = "; what waits is in memory alone and lost if this process ends before it is sent" if unwritten else ""
    return f"outbox in state_dir: {fault}, wanted a folder with room that user {os.getuid()} may read and write{kept}"


def _why(error: OSError) -> str:
    return error.strerror or type(error).__name__


def _stored(entry: Entry) -> dict[str, Any]:
    """Later fields only where they are set: earlier versions set aside an entry with a field that they do not know."""
    fields = asdict(entry)
    return {name: value for name, value in fields.items() if value or name not in ("owner", "is_update")}


def _entry(file: Path) -> Entry | None:
    """What the file holds; None where that is no entry of this version, or another's. Raises OSError."""
    if file.is_dir():
        return None
    try:
        entry = Entry(**orjson.loads(file.read_bytes()))
    except (TypeError, orjson.JSONDecodeError):
        return None
    texts = (entry.key, entry.path, entry.after, entry.owner)
    is_sound = all(isinstance(text, str) for text in texts) and isinstance(entry.body, dict)
    is_sound = is_sound and isinstance(entry.is_update, bool)
    return entry if is_sound and file.name == f"{entry.number!s:0>12}.json" else None
