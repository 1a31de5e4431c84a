"""Finished steps of an enrolment that is not finished: one that is killed goes on where it stopped.

A step's result is a golden record without its last fields, written beside the golden records and removed once the
record is. Its name is a hash of all that it was made from, so that nothing is taken over from other files or settings.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from probes.errors import DamagedGolden, Refused
from probes.golden.codec import content_hash, from_bytes, to_bytes
from probes.golden.record import Golden

FOLDER = "unfinished"
# Raised when a step records something else than before: older steps are then made again.
LAYOUT = 1
KEY_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where the steps of one adapter's enrolment are kept.

    folder: of the golden records; adapter: its name; say: told in words about a step that cannot be used
    setup: how the runner computes, in any words that differ where answers may
    """

    folder: Path
    adapter: str
    setup: str
    say: Callable[[str], object]

    def step(self, name: str, made_from: Mapping[str, object], make: Callable[[], Golden]) -> Golden:
        """What that step recorded before from the same, else what ``make`` records now, which is kept.

        made_from: hashes and settings that the result depends on. Either way it is as read back from its bytes, so
        that an enrolment which was interrupted ends in the same record as one which was not.
        """
        path = self._place / f"{self._key(made_from)}.{name}"
        if (before := self._read(path)) is not None:
            return before
        data = to_bytes(make())
        _write(path, content_hash(data).encode() + data)
        return from_bytes(data)

    def remove(self) -> None:
        """Forget all steps of this adapter, whatever they were made from."""
        shutil.rmtree(self._place, ignore_errors=True)
        with suppress(OSError):  # of other adapters, or none
            self._place.parent.rmdir()

    @property
    def _place(self) -> Path:
        return self.folder / FOLDER / hashlib.sha256(self.adapter.encode()).hexdigest()[:KEY_DIGITS]

    def _key(self, made_from: Mapping[str, object]) -> str:
        everything = {"layout": LAYOUT, "setup": self.setup, "adapter": self.adapter, **made_from}
        text = json.dumps(everything, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS]

    def _read(self, path: Path) -> Golden | None:
        if not path.is_file():
            return None
        digits = len(content_hash(b""))
        content = path.read_bytes()
        kept, data = content[:digits], content[digits:]
        try:
            if kept != content_hash(data).encode():
                raise DamagedGolden(f"unfinished step {path}", "content of another hash", "what was written")
            return from_bytes(data)
        except Refused as error:
            self.say(f"{error}; the step is made again")
            return None


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f"{path.suffix}.partial")
    partial.write_bytes(content)
    partial.replace(path)
