"""The shape of the rooms, read from the source with ``ast`` and nothing else.

One arrow, agent -> probes -> detectors; no circles; folders taken in at a glance; tests where one looks for them.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BELOW = {"agent": {"agent", "probes", "detectors"}, "probes": {"probes", "detectors"}, "detectors": {"detectors"}}
OURS = set(BELOW) | {"examples", "benchmarks", "tests"}
# Mathematics: numbers in, judgement out. Anything else is a reason to ask which room the file belongs to.
MATHEMATICS = {
    "__future__",
    "base64",  # arrays in saved state
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
MOST_FILES = 18
# Tests in the folder of what they are about that are named after a question to it and not after one module of it.
# Contract suites (test_every_*.py) find their members themselves.
NAMED_AFTER_A_QUESTION = {
    "agent/alerting/test_one_fault_one_page.py",
    "agent/cli/test_command_line.py",
    "agent/cli/test_refused_bases.py",
    "agent/economics/test_portfolio_sources.py",
    "agent/kafka/test_broker_faults.py",
    "agent/kafka/test_login.py",
    "agent/kafka/test_recreated_topic.py",
    "agent/store/test_consumer_groups.py",
    "agent/store/test_history_questions.py",
    "agent/store/test_questions.py",
    "agent/store/test_roll_ups.py",
    "agent/store/test_sent_again.py",
    "agent/store/test_views_for_tools.py",
    "agent/test_false_pages.py",
    "agent/test_one_voice.py",
    "agent/test_roll_out.py",
    "agent/traffic/formats/test_messages.py",
    "agent/traffic/formats/test_recorded.py",
    "agent/traffic/formats/test_shapes.py",
    "agent/traffic/test_adapter_names.py",
    "agent/traffic/test_envelopes.py",
    "agent/traffic/test_offsets.py",
    "agent/traffic/test_parameters.py",
    "agent/traffic/test_repeated_ids.py",
    "agent/traffic/test_times.py",
    "detectors/diagnosis/test_cause_table.py",
    "detectors/verdicts/test_pages_a_day.py",
    "probes/model/test_architectures.py",
    "probes/runners/test_real_model.py",
    "probes/runners/test_without_memory.py",
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
    assert imported(path.read_text()) & OURS <= BELOW[path.relative_to(ROOT).parts[0]]


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


def modules() -> dict[str, str]:
    """Dotted name -> source, of every module of the rooms."""
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path.read_text() for path in FILES}


def needs(source: str, known: Mapping[str, str]) -> Iterator[str]:
    """Modules among ``known`` that have to be there before this one is; imports inside functions come later."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            named = (str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names))
            yield from (name for name in named if name in known)


def circle(sources: Mapping[str, str]) -> list[str]:
    """Modules that wait for each other, [] where none do."""
    try:
        TopologicalSorter({name: set(needs(source, sources)) for name, source in sources.items()}).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_module_waits_for_itself() -> None:
    assert circle(modules()) == []


def test_the_reader_sees_a_circle_and_lets_a_late_import_be() -> None:
    one = {"agent.a": "from agent import b\n", "agent.b": "import probes.c\n", "probes.c": "from agent.a import x\n"}
    assert set(circle(one)) == set(one)
    assert circle(one | {"agent.b": "def late():\n    import probes.c\n"}) == []


def test_a_folder_is_taken_in_at_a_glance() -> None:
    folders = [path.parent for path in FILES]
    assert {str(f.relative_to(ROOT)): folders.count(f) for f in folders if folders.count(f) > MOST_FILES} == {}


def test_tests_lie_where_their_module_lies() -> None:
    tests = [path.relative_to(ROOT / "tests") for room in BELOW for path in (ROOT / "tests" / room).rglob("test_*.py")]
    single = [path for path in tests if not path.name.startswith("test_every_")]
    unlike = {str(path) for path in single if not (ROOT / path.with_name(path.name.removeprefix("test_"))).exists()}
    assert unlike == NAMED_AFTER_A_QUESTION
    assert [path for path in tests if not (ROOT / path.parent).is_dir()] == []
