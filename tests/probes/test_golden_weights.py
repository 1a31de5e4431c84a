"""Kept weights: found by their hash alone, whole or not at all, also when two enrolments keep them at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from probes.base_files import base_hash
from probes.errors import Unreplayable
from probes.golden_weights import find, folder_of, keep
from tests.probes.tiny import tiny_base


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny_base(tmp_path / "base")


def test_kept_weights_are_found_by_their_hash(base: Path, tmp_path: Path) -> None:
    kept = keep(base, tmp_path)
    assert find(tmp_path, base_hash(base)) == kept
    assert keep(base, tmp_path) == kept
    assert find(tmp_path, "sha256:" + "0" * 64) is None
    assert list((tmp_path / "weights").iterdir()) == [kept]


@pytest.mark.parametrize("damage", ["torn", "gone", "other"])
def test_torn_or_other_weights_are_not_found(base: Path, tmp_path: Path, damage: str) -> None:
    accepted, kept = base_hash(base), keep(base, tmp_path)
    file = kept / "model.safetensors"
    whole = file.read_bytes()
    file.unlink()
    if damage == "torn":
        file.write_bytes(whole[:500])
    elif damage == "other":
        file.write_bytes(whole[:-4] + bytes(4))
    assert find(tmp_path, accepted) is None


def test_many_at_once_leave_one_whole_folder_and_nothing_else(base: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        kept = set(pool.map(lambda _: keep(base, tmp_path), range(8)))
    assert kept == {folder_of(tmp_path, base_hash(base))}
    assert list((tmp_path / "weights").iterdir()) == [*kept]
    assert find(tmp_path, base_hash(base)) is not None


def test_a_base_that_cannot_be_read_leaves_nothing(base: Path, tmp_path: Path) -> None:
    (base / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(Unreplayable):
        keep(base, tmp_path / "golden")
    assert not (tmp_path / "golden").exists()
