"""What the configuration says of clocks: who is still there, and after how long something is stale."""

from __future__ import annotations

from pathlib import Path

from agent.config import Config
from agent.errors import Refused
from agent.lifecycle.clocks import Horizons

DAY_S = 86_400.0


def horizons(config: Config) -> Horizons:
    wanted = config.alerts.clocks
    return Horizons(round(wanted.golden_after / DAY_S), round(wanted.rebuild_after / DAY_S))


def active_people(config: Config) -> tuple[str, ...] | None:
    """None where no list is configured. Raises Refused for one that cannot be read: nobody is taken for gone by it."""
    file = config.alerts.clocks.people_file
    return None if file is None else read_people(file)


def read_people(file: Path) -> tuple[str, ...]:
    """One name or address a line, # before a remark. Raises Refused for a file that cannot be read or names nobody."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", "") or type(error).__name__
        raise Refused(f"people_file {file}", why, "a text file, one person a line") from None
    names = tuple(name for line in lines if (name := line.partition("#")[0].strip()))
    if not names:
        raise Refused(f"people_file {file}", "nobody", "one person a line: by an empty list every owner would be gone")
    return names
