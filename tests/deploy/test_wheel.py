"""The wheel, installed outside of any checkout: what it holds, and that the program needs nothing beside it."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from tests.deploy.installed import ROOT, Environment, asked_by, closure, environment

LAID_IN = {"queries": "dashboards/sql", "migrations": "deploy/clickhouse", "runbooks": "dashboards/runbooks"}
QUESTIONS = sorted(file.stem for file in (ROOT / "dashboards/sql").iterdir())


def shipped() -> Iterator[tuple[str, Path]]:
    """Path in the wheel -> the one place where it is written."""
    yield "agent/data/gapwatch.yaml", ROOT / "deploy/gapwatch.yaml"
    yield "agent/data/glossary.md", ROOT / "docs/glossary.md"
    for file in (ROOT / "probes/compatibility/rules").iterdir():
        yield f"probes/compatibility/rules/{file.name}", file
    yield "probes/composition/retention_models.json", ROOT / "probes/composition/retention_models.json"
    for name, folder in LAID_IN.items():
        for file in (ROOT / folder).iterdir():
            yield f"agent/data/{name}/{file.name}", file


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory, wheel_site: Path) -> Environment:
    """A plain installation, with the embedded engine beside it as a store."""
    names = closure("gapwatch[embedded]", asked_by(wheel_site))
    return environment(tmp_path_factory.mktemp("installed"), wheel_site, names)


def test_it_holds_the_rooms_and_what_is_shipped_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as held:
        files = {name for name in held.namelist() if ".dist-info/" not in name}
        assert {name: held.read(name) for name, _ in shipped()} == {name: at.read_bytes() for name, at in shipped()}
    rooms = {str(file.relative_to(ROOT)) for room in ("agent", "probes", "detectors") for file in modules(ROOT / room)}
    assert files == rooms | {name for name, _ in shipped()}


def modules(room: Path) -> Iterator[Path]:
    """The code, and what the status page is made of."""
    kinds = {".py", ".html", ".css", ".js"}
    return (file for file in room.rglob("*") if file.suffix in kinds and "__pycache__" not in file.parts)


def test_pip_installs_it_with_its_command(wheel: Path, tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(tmp_path)]
    subprocess.run([*pip, str(wheel)], cwd=tmp_path, check=True, capture_output=True, timeout=120)
    assert "agent.__main__" in (tmp_path / "bin/gapwatch").read_text()
    tops = {path.name for path in tmp_path.iterdir() if not path.name.endswith(".dist-info")}
    assert tops == {"agent", "probes", "detectors", "bin"}


def test_the_version_is_told_without_importing_what_is_told_of(there: Environment, wheel: Path) -> None:
    done = there.gapwatch("--version")
    python = ".".join(map(str, sys.version_info[:3]))
    assert done.stdout.splitlines() == [
        f"gapwatch {wheel.name.split('-')[1]}",
        f"Python {python}",
        "torch not installed",
        "transformers not installed",
        f"chdb {metadata.version('chdb')}",
    ]
    code = "import sys; from agent.cli.version import print_versions; print_versions(); print(sorted(sys.modules))"
    assert "'chdb'" not in there.python("-c", code).stdout


def test_questions_runbooks_and_sample_are_found(there: Environment) -> None:
    sample = there.gapwatch("sample-config").stdout
    assert sample == (ROOT / "deploy/gapwatch.yaml").read_text()
    (there.home / "gapwatch.yaml").write_text(sample)
    listed = there.gapwatch("query", "--json").stdout
    assert [row["name"] for row in json.loads(listed)] == QUESTIONS
    page = ROOT / "dashboards/runbooks/wrong_adapter.md"
    assert there.gapwatch("runbook", "wrong_adapter").stdout == page.read_text()
    assert there.gapwatch("runbook").stdout.split() == sorted(file.stem for file in page.parent.iterdir())
    strange = there.gapwatch("runbook", "../gapwatch")
    assert strange.returncode == 64 and strange.stderr.startswith("refused: runbook: saw ../gapwatch, wanted one of: ")


ASK_EVERY_QUESTION = """
from pathlib import Path
from agent.store import client as store
from agent.store.migrations import migrate
opened = store.connect(f"chdb:///{Path.cwd()}/store")
print(len(migrate(opened)), *(name for name in store.query_names() if store.run_query(opened, name)[0]))
opened.close()
"""


def test_the_tables_are_made_and_every_question_is_answered(there: Environment) -> None:
    done = there.python("-c", ASK_EVERY_QUESTION)
    migrations = len(list((ROOT / "deploy/clickhouse").iterdir()))
    assert done.stdout.split() == [str(migrations), *QUESTIONS], done.stderr


def test_the_demo_says_that_it_needs_a_checkout(there: Environment) -> None:
    done = there.gapwatch("demo")
    said = "saw an installation without examples/helpdesk, wanted a checkout of the repository, and in it: make demo"
    assert (done.returncode, done.stdout, done.stderr) == (64, "", f"refused: gapwatch demo: {said}\n")
    assert not (there.home / ".gapwatch").exists()
