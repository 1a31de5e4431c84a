"""Which sinks are there? One file under agent/sinks each; its name is its key under ``sinks`` in the configuration.

The folder is the registry. config.py alone names some of them: those that are always on, or have a section of their
own. What each of them is given is in surroundings.py.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable
from importlib import import_module
from types import ModuleType

from agent import sinks
from agent.errors import Refused


def names() -> tuple[str, ...]:
    """All sinks, in alphabetical order. The folder is read, nothing is imported."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(sinks.__path__)))


def load(name: str) -> ModuleType:
    """The file of that name, with its ``Config`` and ``Sink``.

    Raises Refused, naming what there is; an import that fails inside the file is reported as itself.
    """
    if name not in names():
        raise Refused(f"sinks.{name}", "this key", f"one of: {', '.join(names())}")
    return import_module(f"{sinks.__name__}.{name}")


def in_order(switched_on: Iterable[str]) -> list[str]:
    """The order in which sinks are opened and given each finding: those whose file says ``FIRST = True``, then the
    others; alphabetical within both. PagerDuty is first, so that a page is on disk before anything else is tried."""
    return sorted(switched_on, key=lambda name: (not getattr(load(name), "FIRST", False), name))
