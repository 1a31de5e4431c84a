"""What a restart must not forget: one JSON file, replaced whole, beside the outbox.

On local disk and not in the store, because a store that cannot be reached must not cost the agent its open incidents.
What the state holds is the judge's; its layout is versioned there, part by part, so that evidence survives an upgrade.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import orjson
import structlog

log = structlog.get_logger(__name__)

# Raised where an earlier program would fail on the file: it then sets the file aside and starts with empty state.
VERSION = 2
READABLE = (1, 2)


class StateFile:
    """``load`` gives what ``save`` was given last; {} on a first start, and after damage: that file is renamed."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "monitor.json"

    def load(self) -> dict[str, Any]:
        try:
            stored = orjson.loads(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, orjson.JSONDecodeError) as error:
            self._set_aside(str(error))
            return {}
        if not isinstance(stored, dict) or stored.get("version") not in READABLE:
            self._set_aside("another version")
            return {}
        state: dict[str, Any] = stored["state"]
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Write another file, then rename it: a reader sees the old state or the new one, never half of one."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._path.with_suffix(".new")
        with fresh.open("wb") as file:
            file.write(orjson.dumps({"version": VERSION, "state": state}))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)

    def _set_aside(self, why: str) -> None:
        log.warning("state_set_aside", path=str(self._path), why=why)
        self._path.replace(self._path.with_suffix(".damaged"))
