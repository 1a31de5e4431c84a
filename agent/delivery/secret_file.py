"""A mounted file with a key, read for every request: what is rotated is in force at once, and it is kept nowhere."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from agent.trouble import Trouble


class SecretFile:
    """path: of the file; place: its key in the configuration; part: of /readyz

    wanted: what stands in it, in words; fault: what is wrong with a text, without repeating it, "" for nothing
    """

    def __init__(self, path: Path, place: str, part: str, wanted: str, fault: Callable[[str], str]) -> None:
        self._path, self._place, self._wanted, self._fault = path, place, wanted, fault
        self._trouble = Trouble(part)
        self._version = (0, 0)  # of the file when it was last read: inode, time of its last change in ns

    @property
    def trouble(self) -> str:
        """Why it could not be read the last time, "" where it could. Neither content nor path: the key itself may have
        been written where its file should be named."""
        return str(self._trouble)

    def current(self) -> str:
        """The key, "" where there is none; says nothing about it and remembers nothing, so any thread may ask."""
        try:
            key = self._path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return ""
        return "" if self._fault(key) else key

    def read(self) -> tuple[str, bool]:
        """(the key or "", is the file another one than the last time that it held a key?)"""
        try:
            with self._path.open(encoding="utf-8") as file:
                key, version = file.read().strip(), os.fstat(file.fileno())
        except (OSError, UnicodeDecodeError) as error:
            return self._unfit(
                "bytes that are no text" if isinstance(error, UnicodeDecodeError) else str(error.strerror)
            )
        if fault := self._fault(key):
            return self._unfit(fault)
        self._trouble.end()
        before, self._version = self._version, (version.st_ino, version.st_mtime_ns)
        return key, self._version != before

    def _unfit(self, actual: str) -> tuple[str, bool]:
        wanted = f"{self._wanted} that user {os.getuid()} may read"
        self._trouble.begin(f"{self._place}: saw {actual}, wanted {wanted}; notices wait until then")
        return "", False
