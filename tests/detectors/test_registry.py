from __future__ import annotations

import sys
from pathlib import Path

import pytest

from detectors import kinds
from detectors.errors import UnknownDetector
from detectors.registry import load, names


def test_names_are_the_files_of_the_folder() -> None:
    folder = Path(str(kinds.__path__[0]))
    assert names() == tuple(sorted(p.stem for p in folder.glob("*.py") if p.stem != "__init__"))
    assert {"adapter_gap", "base_shift", "embedding_drift"} <= set(names())


def test_an_unknown_name_is_answered_with_what_there_is() -> None:
    with pytest.raises(UnknownDetector, match=r"adapter_gab.*adapter_gap"):
        load("adapter_gab")


def test_a_missing_dependency_is_reported_as_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needs_more.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.setattr(kinds, "__path__", [str(tmp_path)])
    assert names() == ("needs_more",)
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        load("needs_more")
    assert "detectors.kinds.needs_more" not in sys.modules
