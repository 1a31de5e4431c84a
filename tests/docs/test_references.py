"""What a page or a docstring points at is there: pages, sections, files, modules, commands."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from agent.__main__ import cli

ROOT = Path(__file__).resolve().parents[2]
PAGES = {"README.md", *(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))}
ROOMS = ("agent", "probes", "detectors", "tests", "deploy", "dashboards", "examples", "benchmarks", "docs")
# Written by an enrolment, a run or a user of the examples, or a name with a part to fill in.
MADE = re.compile(r"NAME|[*{}<]|\.gapwatch")
# Pages of other projects, cited beside their name.
ELSEWHERE = {"spec/semantic_conventions.md", "docs/gen-ai/gen-ai-events.md", "sampling_params.md", "gguf.md"}
# Python files of other projects, likewise.
CITED_SOURCES = ("litellm/", "zero_to_fp32.py")
A_PAGE = re.compile(r"(?<![\w./-])((?:[\w.-]+/)*[\w.-]+\.md)(#[\w-]+)?(?!\w)")
A_PATH = re.compile(rf"`((?:{'|'.join(ROOMS)})/[^\s`]+)`")
A_SOURCE = re.compile(r"(?<![\w./*-])((?:[\w.-]+/)*\w+\.py)(?!\w)")
A_MODULE = re.compile(r"python -m ((?:benchmarks|dashboards|examples|agent)[\w.]*)")
A_COMMAND = re.compile(r"gapwatch ([a-z][a-z-]+)(?![\w.:/])")
A_LINK = re.compile(r"\]\(([^)\s]+)\)")


@cache
def tracked() -> tuple[str, ...]:
    """Every file of the repository, new ones too; none where this is no checkout."""
    asked = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    told = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.splitlines()
    # A link is another name for a page that is listed itself.
    return tuple(name for name in told if (ROOT / name).is_file() and not (ROOT / name).is_symlink())


def texts(*endings: str) -> list[str]:
    found = [name for name in tracked() if name.endswith(endings)]
    if not found:
        pytest.skip("not a checkout: git does not list the files")
    return found


@cache
def sections(page: Path) -> frozenset[str]:
    """Anchors of a page's headings, by the rule of the places that render it."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings)


def broken_pages(name: str) -> list[str]:
    """Pages that a file names and that are not there, or lack the section."""
    found = []
    for path, anchor in A_PAGE.findall((ROOT / name).read_text()):
        places = [base / path for base in (ROOT, (ROOT / name).parent, ROOT / "docs") if (base / path).is_file()]
        if (
            path not in ELSEWHERE
            and not MADE.search(path)
            and not (places and (not anchor or anchor[1:] in sections(places[0])))
        ):
            found.append(path + anchor)
    return found


def test_every_page_that_code_or_a_page_cites_is_here_with_its_section() -> None:
    found = {name: broken for name in texts(".py", ".md", ".toml", ".yaml", ".sql") if (broken := broken_pages(name))}
    # Files that tests make for themselves, and one that a library leaves behind.
    found = {name: broken for name, broken in found.items() if not name.startswith("tests/")}
    found.pop("examples/helpdesk/train.py", None)
    assert found == {}


def test_every_path_in_a_page_is_here() -> None:
    missing = {
        f"{name}: {path}"
        for name in texts(".md")
        for path in A_PATH.findall((ROOT / name).read_text())
        if not MADE.search(path) and not (ROOT / path).exists() and path not in examples_of(name)
    }
    assert missing == set()


def examples_of(name: str) -> set[str]:
    """Files that a page shows whole, as an example of what to add."""
    return set(re.findall(r"`([\w/]+\.py)`, whole", (ROOT / name).read_text()))


def missing_sources(name: str) -> set[str]:
    """Python files that a file's docstrings and comments name and that are not there; a bare name may be anywhere."""
    paths = {path for path in A_SOURCE.findall((ROOT / name).read_text()) if not path.startswith(CITED_SOURCES)}
    known = {Path(other).name for other in tracked()}
    return {path for path in paths if not ((ROOT / path).is_file() if "/" in path else path in known)}


def test_every_python_file_that_code_names_is_here() -> None:
    rooms = tuple(f"{room}/" for room in ("agent", "probes", "detectors"))
    missing = {name: gone for name in texts(".py") if name.startswith(rooms) and (gone := missing_sources(name))}
    assert missing == {}


def test_every_link_of_a_page_leads_somewhere() -> None:
    missing = set()
    for name in texts(".md"):
        for link in A_LINK.findall((ROOT / name).read_text()):
            path, _, anchor = link.partition("#")
            target = (ROOT / name).parent / path if path else ROOT / name
            if not link.startswith("http") and not (target.exists() and (not anchor or anchor in sections(target))):
                missing.add(f"{name}: {link}")
    assert missing == set()


def test_every_module_that_a_page_or_a_docstring_runs_is_here() -> None:
    missing = {
        f"{name}: {module}"
        for name in texts(".md", ".py")
        for module in A_MODULE.findall((ROOT / name).read_text())
        if module not in ("benchmarks.NAME",) and importlib.util.find_spec(module.rstrip(".")) is None
    }
    assert missing == set()


def test_every_command_in_a_page_is_one() -> None:
    command: Any = typer.main.get_command(cli)
    known = set(command.commands)
    missing = {
        f"{name}: gapwatch {word}"
        for name in texts(".md")
        for code in re.findall(r"```.*?```|`[^`]+`", (ROOT / name).read_text(), re.DOTALL)
        for word in A_COMMAND.findall(code)
        if word not in known
    }
    assert missing == set()


def test_every_folder_with_code_is_in_the_architecture() -> None:
    told = set(re.findall(r"^\| `([\w/]+)/`", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE))
    rooms = [ROOT / room for room in ("agent", "probes", "detectors")]
    folders = {str(file.parent.relative_to(ROOT)) for room in rooms for file in room.rglob("*.py")}
    assert folders <= told


def test_every_page_of_docs_can_be_reached_from_the_readme() -> None:
    reached, waiting = set(), ["README.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        linked = [str(Path(page).parent / link.partition("#")[0]) for link in A_LINK.findall((ROOT / page).read_text())]
        waiting += [link for link in linked if link in PAGES - reached]
    assert reached >= PAGES


def test_the_readme_is_read_in_one_go() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 160
    assert {"make demo", "make test"} <= {line.partition("#")[0].strip() for line in lines[:20]}


def test_the_reader_of_references_sees_what_is_missing(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One thing: e-detector\n\nsee there.md and page.md#one-thing-e-detector and page.md#two\n")
    assert sections(page) == {"one-thing-e-detector"}
    assert broken_pages(str(page)) == ["there.md", "page.md#two"]
