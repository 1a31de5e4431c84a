"""gapwatch bisect: between two folders, and between two commits of a repository."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from agent.cli.lifecycle.bisect import BisectOptions, bisect_bases
from agent.errors import Refused
from tests.probes.compatibility.releases import noisy, permuted
from tests.probes.tiny import tiny_adapter, tiny_base

DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture
def wish(tmp_path: Path) -> BisectOptions:
    base = tiny_base(tmp_path / "base", tied=False)
    rows = [
        {"id": f"c{n}", "messages": [{"role": "user", "content": f"question {n * 37 % 101} of {chr(65 + n)}"}]}
        for n in range(8)
    ]
    canaries = tmp_path / "canaries.jsonl"
    canaries.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return BisectOptions(str(base), "", tiny_adapter(tmp_path / "a", base), canaries, cache_dir=tmp_path)


def with_new(wish: BisectOptions, new: str, old: str = "", repository: Path | None = None) -> BisectOptions:
    return BisectOptions(old or wish.old, new, wish.adapter, wish.canaries, repository, wish.cache_dir)


def test_the_commit_and_its_tensors_are_named(
    wish: BisectOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, place = Path(wish.old), tmp_path / "repository"
    drift = noisy(base, tmp_path / "drift", 0.002)
    bad = noisy(drift, tmp_path / "bad", 1.5, "layers.1.mlp.down")
    shutil.copytree(base, place)
    git = ("git", "-C", str(place), "-c", "user.name=a", "-c", "user.email=a@example.org")
    subprocess.run([*git, "init", "-q"], check=True)
    for number, release in enumerate([base, drift, bad, noisy(bad, tmp_path / "later", 0.002)]):
        shutil.copy(release / "model.safetensors", place)
        subprocess.run([*git, "add", "-A"], check=True)
        subprocess.run([*git, "commit", "-qm", f"release {number}"], check=True)
    assert bisect_bases(with_new(wish, "HEAD", "HEAD~3", place), json=True) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["commit"].endswith("release 2") and answer["tensors"] == [DOWN]
    assert bisect_bases(with_new(wish, "HEAD~2", "HEAD~3", place), json=True) == 1
    assert json.loads(capsys.readouterr().out)["commit"] == "", "no commit is to blame for nothing"
    worktrees = subprocess.run([*git, "worktree", "list"], check=True, capture_output=True, text=True).stdout
    assert len(worktrees.splitlines()) == 1


def test_other_coordinates_are_said_and_nothing_is_halved(
    wish: BisectOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = permuted(Path(wish.old), tmp_path / "new")
    assert bisect_bases(with_new(wish, str(new)), json=False) == 0
    assert "hidden units permuted" in capsys.readouterr().out
    assert bisect_bases(with_new(wish, wish.old), json=False) == 1
    with pytest.raises(Refused, match="no such folder"):
        bisect_bases(with_new(wish, "main"), json=False)
