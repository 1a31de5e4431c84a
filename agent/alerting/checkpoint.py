"""What a restart must not forget: one JSON file, replaced whole, beside the outbox.

On local disk and not in the store, because a store that cannot be reached must not cost the agent its open incidents.
What the state holds is the judge's; its layout is versioned there, part by part, so that evidence survives an upgrade.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from agent.alerting.set_aside import set_aside
from agent.trouble import Trouble

# Raised where an earlier program would fail on the file: it then sets the file aside and starts with empty state.
VERSION = 2
READABLE = (1, 2)
COST = "; evidence and open incidents are in memory alone, and a restart forgets them"


class StateFile:
    """``load`` gives what ``save`` was given last; {} on a first start, and where the file cannot be used.

    A file that is damaged, unreadable or of another version is renamed, never written over; where it cannot even be
    renamed, nothing is written. Neither raises: ``status`` says what is wrong, and each ``save`` tries again.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "monitor.json"
        self._in_the_way = ""  # why what lies there is not ours to write over
        self._past = ""
        self._trouble = Trouble("state")

    @property
    def status(self) -> tuple[bool, str]:
        """Is what a restart must not forget on disk, and if not, why not and what to do?"""
        words = "; ".join(text for text in (str(self._trouble), self._past) if text)
        return not self._trouble, words or "saved after each round"

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

    def save(self, state: dict[str, Any]) -> None:
        """Write another file, then rename it: a reader sees the old state or the new one, never half of one."""
        if self._in_the_way:
            self.set_aside(self._in_the_way)
        if self._in_the_way:
            return
        fresh = self._path.with_suffix(".new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with fresh.open("wb") as file:
                file.write(orjson.dumps({"version": VERSION, "state": state}))
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self._path)
        except OSError as error:
            with suppress(OSError):
                fresh.unlink(missing_ok=True)  # half a state takes room that a page may need
            self._failed(error)
        else:
            self._trouble.end()

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


def _why(error: OSError) -> str:
    return error.strerror or type(error).__name__
