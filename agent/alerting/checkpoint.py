"""What a restart must not forget: JSON files, replaced whole, beside the outbox.

On local disk and not only in the store, because a store that cannot be reached must not cost the agent its open
incidents. What they hold is the judge's; its layout is versioned there, part by part, so that evidence survives an
upgrade.
"""

from __future__ import annotations

import math
import os
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from agent.alerting.set_aside import set_aside
from agent.clock import Clock
from agent.delivery.disk import Disk
from agent.delivery.whole_file import write_whole
from agent.trouble import Trouble

# Raised where an earlier program would fail on the file: it then sets the file aside and starts with empty state.
VERSION = 2
READABLE = (1, 2)
# At most so often what detectors with a past of their own have learnt is written: 350 kB a stream, which only informs.
OWN_PAST_EVERY_S = 600.0
COST = "; evidence and open incidents are in memory alone, and a restart forgets them"


class StateFile:
    """``load`` gives what ``save`` was given last; {} on a first start, and where the file cannot be used.

    A file that is damaged, unreadable or of another version is renamed, never written over; where it cannot even be
    renamed, nothing is written. Neither raises: ``status`` says what is wrong, and each ``save`` tries again.

    What only informs and is large lies in a file of its own, written when it is due and after the other one: after a
    crash it is as old as that or older, so that nothing is counted in it twice.
    """

    def __init__(self, folder: Path, clock: Clock | None = None, disk: Disk | None = None) -> None:
        """disk: what writes the files, at once where it is not open"""
        self._path, self._own_past = folder / "monitor.json", folder / "own_past.json"
        self._clock, self._disk = clock or Clock(), disk or Disk()
        self._n_saved = self._n_done = 0
        self._past_content: bytes | None = None  # of what only informs, until it is on disk
        self._own_past_at = -math.inf  # of the last time it was written, steady
        self._in_the_way = ""  # why what lies there is not ours to write over
        self._past = ""
        self._trouble = Trouble("state")

    @property
    def status(self) -> tuple[bool, str]:
        """Is what a restart must not forget on disk, and if not, why not and what to do?"""
        late_s = self._disk.late_s
        late = f"the disk of state_dir has not answered for {late_s:.0f} s{COST}" if late_s else ""
        words = "; ".join(text for text in (str(self._trouble), late, self._past) if text)
        return not (self._trouble or late), words or "saved after each round"

    @property
    def is_saved(self) -> bool:
        """Is nothing on its way to the disk? What the disk refused is not: ``status`` says so."""
        return self._n_done >= self._n_saved

    def load(self) -> dict[str, Any]:
        try:
            stored = orjson.loads(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except NotADirectoryError as error:
            return self._failed(error)
        except OSError as error:
            return self.set_aside(_why(error))
        except orjson.JSONDecodeError:
            return self.set_aside("no JSON, or half of it")
        if not isinstance(stored, dict) or stored.get("version") not in READABLE:
            return self.set_aside("another version")
        state = stored.get("state")
        return state if isinstance(state, dict) else self.set_aside("no state in it")

    def load_own_past(self) -> dict[str, Any]:
        """What the last ``save`` with such had; {} where it cannot be used: it is learnt again, and written over."""
        try:
            stored = orjson.loads(self._own_past.read_bytes())
        except (OSError, orjson.JSONDecodeError):
            return {}
        is_usable = isinstance(stored, dict) and stored.get("version") == VERSION
        return stored["state"] if is_usable and isinstance(stored.get("state"), dict) else {}

    @property
    def own_past_due(self) -> bool:
        """Is it time to write it again?"""
        return self._clock.steady() - self._own_past_at >= OWN_PAST_EVERY_S

    def save(self, state: dict[str, Any], own_past: dict[str, Any] | None = None) -> None:
        """Waits for no disk, where that has a thread. own_past: what only informs, None to leave its file as it is"""
        content, self._n_saved = _content(state), self._n_saved + 1
        if own_past is not None:
            self._past_content = _content(own_past)
        self._disk.put_latest(self, partial(self._write, content, self._n_saved))

    def _write(self, content: bytes, number: int) -> None:
        try:
            self._write_both(content)
        finally:
            self._n_done = number

    def _write_both(self, content: bytes) -> None:
        if self._in_the_way:
            self.set_aside(self._in_the_way)
        if self._in_the_way:
            return
        past = self._past_content
        try:
            write_whole(self._path, content)
            if past is not None:
                write_whole(self._own_past, past)
                self._own_past_at = self._clock.steady()
        except OSError as error:
            self._failed(error)
        else:
            self._trouble.end()
            if self._past_content is past:
                self._past_content = None

    def set_aside(self, why: str) -> dict[str, Any]:
        """Keep what lies there under another name, and begin with {}. why: it cannot be used, never its content"""
        try:
            kept = set_aside(self._path, why)
        except FileNotFoundError:  # somebody has removed it
            self._in_the_way = ""
        except OSError as error:
            self._in_the_way = why
            wanted = f"a file of this version, or the right of user {os.getuid()} to rename it"
            self._trouble.begin(f"{self._path.name} in state_dir: {why}; {_why(error)}, wanted {wanted}{COST}")
        else:
            self._in_the_way, self._past = "", f"began without the earlier state: {why}; it is kept as {kept.name}"
        return {}

    def _failed(self, error: OSError) -> dict[str, Any]:
        wanted = f"a folder with room that user {os.getuid()} may write"
        self._trouble.begin(f"{self._path.name} in state_dir: {_why(error)}, wanted {wanted}{COST}")
        return {}


def _content(state: dict[str, Any]) -> bytes:
    return orjson.dumps({"version": VERSION, "state": state})


def _why(error: OSError) -> str:
    return error.strerror or type(error).__name__
