"""What is kept of a retired adapter, what is deleted where it is forgotten, and what others need stays."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from agent.errors import Refused
from agent.lifecycle import retirement
from agent.lifecycle.retirement import Retirement
from probes.golden.archive import newest, save
from probes.golden.weights import adapter_folder
from tests.probes.goldens import golden

WHEN = date(2026, 11, 28)


@pytest.fixture
def golden_dir(tmp_path: Path) -> Path:
    """Two adapters whose copies are one folder, because their files are the same."""
    for name, at in (("router", 1.0), ("router", 2.0), ("rewriter", 3.0)):
        save(golden(name, at=at), tmp_path)
    copy = adapter_folder(tmp_path, golden("router").adapter_hash)
    copy.mkdir(parents=True)
    (copy / "adapter_config.json").write_text("{}")
    return tmp_path


def test_it_is_read_as_it_was_written_with_its_canaries(golden_dir: Path, tmp_path: Path) -> None:
    canaries = tmp_path / "canaries.jsonl"
    canaries.write_text("{}\n")
    own = Retirement(adapter="router", at=WHEN, why="its task is gone", base="m", golden="sha256:1")
    retirement.write(golden_dir, own, canaries)
    assert retirement.read(golden_dir, "router") == own and retirement.retired(golden_dir) == {"router": own}
    copy = retirement.canary_file(golden_dir, "router")
    assert copy is not None and copy.read_text() == "{}\n"
    retirement.undo(golden_dir, "router")
    assert retirement.read(golden_dir, "router") is None and retirement.canary_file(golden_dir, "router") == copy


def test_forgetting_deletes_all_of_it_and_nothing_that_others_need(golden_dir: Path) -> None:
    retirement.write(golden_dir, Retirement(adapter="router", at=WHEN, why="gone"), None)
    lost = retirement.forget(golden_dir, "router")
    assert len(lost.records) == 2 and newest(golden_dir, "router") is None and newest(golden_dir, "rewriter")
    assert lost.copies == () and [path.exists() for path in lost.shared] == [True]
    assert retirement.read(golden_dir, "router") is not None
    again = retirement.forget(golden_dir, "rewriter")
    assert len(again.copies) == 1 and not again.copies[0].exists()
    assert retirement.forget(golden_dir, "rewriter").records == ()


def test_a_wrong_file_is_refused_with_its_place(golden_dir: Path) -> None:
    file = retirement.write(golden_dir, Retirement(adapter="router", at=WHEN, why="gone"), None)
    file.write_text("adapter: router\nat: never\nwhy: gone\n")
    with pytest.raises(Refused, match="at"):
        retirement.read(golden_dir, "router")


def test_a_file_that_is_wrong_is_refused_by_its_place_also_among_all(golden_dir: Path) -> None:
    file = retirement.write(golden_dir, Retirement(adapter="router", at=WHEN, why="x"), None)
    file.write_text(file.read_text() + "surprise: 1\n")
    for read in (lambda: retirement.read(golden_dir, "router"), lambda: retirement.retired(golden_dir)):
        with pytest.raises(Refused, match="surprise"):
            read()
