"""Finds the files that are shipped beside the code: on-call questions, migrations, runbooks, the glossary, the sample
configuration.

They are edited in dashboards/, deploy/ and docs/, and linked under agent/data, so that a checkout, an editable
installation and a wheel (which holds copies) find them under one name.
"""

from __future__ import annotations

import re
from importlib.resources import files
from importlib.resources.abc import Traversable

from agent.errors import Refused

_DATA = files("agent") / "data"
QUERIES = _DATA / "queries"
MIGRATIONS = _DATA / "migrations"
RUNBOOKS = _DATA / "runbooks"
GLOSSARY = _DATA / "glossary.md"
SAMPLE = _DATA / "gapwatch.yaml"
# What benchmarks/runbooks.py writes of each begins with this.
REPRODUCED = "<!-- reproduced -->"
# A link without an address that a terminal could open.
_LINK = re.compile(r"\[([^\]]+)\]\([^)]*\)")
_SECTION = re.compile(r"^\*\*([^*]+)\*\*", re.MULTILINE)


def texts(folder: Traversable, suffix: str) -> dict[str, Traversable]:
    """File name without its suffix -> file, of all files with that suffix, by name."""
    files_by_name = {file.name.removesuffix(suffix): file for file in folder.iterdir() if file.name.endswith(suffix)}
    return dict(sorted(files_by_name.items()))


def glossary() -> dict[str, str]:
    """Word -> what it means, of the words that the glossary explains; links are left out."""
    page = GLOSSARY.read_text(encoding="utf-8").partition("## Words")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ", 1) for line in page.splitlines() if line.startswith("| ")]
    return {word: _LINK.sub(r"\1", meaning) for word, meaning in (row for row in rows[1:] if len(row) == 2)}


def runbook(name: str) -> str:
    """The runbook of one cause, as Markdown. Raises Refused for a cause without one."""
    pages = texts(RUNBOOKS, ".md")
    if name not in pages:
        raise Refused("runbook", name, f"one of: {', '.join(pages)}")
    return pages[name].read_text(encoding="utf-8")


def runbook_sections(name: str) -> dict[str, str]:
    """Title -> text of each part of a runbook that begins with a title in bold: What it means, Check, First action,
    Undo, Recovered when, and others of its own; not how it looked. Raises Refused for a cause without a runbook."""
    parts = _SECTION.split(runbook(name).partition(REPRODUCED)[0])[1:]
    return {title.strip(" .?"): text.strip() for title, text in zip(parts[::2], parts[1::2], strict=True)}
