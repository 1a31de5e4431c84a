"""One arrow, agent -> probes -> detectors, read from the source with ``ast`` and nothing else."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BELOW = {"agent": {"agent", "probes", "detectors"}, "probes": {"probes", "detectors"}, "detectors": {"detectors"}}
OURS = set(BELOW) | {"examples", "benchmarks", "tests"}
# Mathematics: numbers in, judgement out. Anything else is a reason to ask which room the file belongs to.
MATHEMATICS = {
    "__future__",
    "collections",
    "dataclasses",
    "enum",
    "functools",
    "importlib",
    "itertools",
    "math",
    "numpy",
    "pkgutil",
    "scipy",
    "shlex",  # an adapter's name in a command that is told
    "types",
    "typing",
    "zlib",
}
FILES = [path for room in BELOW for path in sorted((ROOT / room).rglob("*.py"))]


def imported(source: str) -> set[str]:
    """Top-level names of all modules that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written from the root"
            found.add(str(node.module).partition(".")[0])
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_imports_upward(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    # The demo of the agent runs in the world of examples/, which is data for it and no room.
    allowed = BELOW[room] | ({"examples"} if "demo" in path.parts else set())
    assert imported(path.read_text()) & OURS <= allowed


@pytest.mark.parametrize("path", sorted((ROOT / "detectors").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_detectors_know_numbers_only(path: Path) -> None:
    source = path.read_text()
    assert imported(source) <= MATHEMATICS | {"detectors"}
    called = {
        n.func.id for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
    }
    assert not called & {"open", "print", "input", "exec", "eval"}


def test_init_files_are_empty() -> None:
    assert [p for room in BELOW for p in (ROOT / room).rglob("__init__.py") if p.read_text().strip()] == []


def test_the_reader_sees_an_upward_import_and_a_clock() -> None:
    assert imported("def f():\n    from agent.app import run\n    import time\n") == {"agent", "time"}
