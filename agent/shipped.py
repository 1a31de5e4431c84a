"""What is shipped beside the code: on-call questions, migrations, runbooks and a sample configuration.

They are written in dashboards/ and deploy/ and linked under agent/data: a checkout, an editable installation and
a wheel, which holds copies, find them by one name.
"""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable

from agent.errors import Refused

_DATA = files("agent") / "data"
QUERIES = _DATA / "queries"
MIGRATIONS = _DATA / "migrations"
RUNBOOKS = _DATA / "runbooks"
SAMPLE = _DATA / "gapwatch.yaml"


def texts(folder: Traversable, suffix: str) -> dict[str, Traversable]:
    """File name without its suffix -> file, of all files with that suffix, by name."""
    found = {file.name.removesuffix(suffix): file for file in folder.iterdir() if file.name.endswith(suffix)}
    return dict(sorted(found.items()))


def runbook(name: str) -> str:
    """The page of one cause, Markdown. Raises Refused for a cause without a page."""
    pages = texts(RUNBOOKS, ".md")
    if name not in pages:
        raise Refused("runbook", name, f"one of: {', '.join(pages)}")
    return pages[name].read_text(encoding="utf-8")
