"""A file is there whole, as it was, or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from agent.delivery.whole_file import write_whole


def test_it_replaces_what_lay_there_and_makes_its_folder(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b" / "state.json"
    for content in (b"first", b"second"):
        write_whole(file, content)
        assert file.read_bytes() == content
    assert [each.name for each in file.parent.iterdir()] == ["state.json"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_file_and_folder_are_synced_and_the_rename_comes_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, fsync = list[tuple[str, bool]](), os.fsync
    file = tmp_path / "state.json"

    def noted(handle: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file"
        seen.append((kind, file.exists()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    write_whole(file, b"content")
    assert seen == [("file", False), ("folder", True)]


def test_a_full_disk_keeps_the_earlier_content_and_no_half_of_the_new(full_disk: Path) -> None:
    file = full_disk / "state.json"
    write_whole(file, b"earlier")
    with pytest.raises(OSError, match="No space left"):
        write_whole(file, b"x" * 500_000)
    assert file.read_bytes() == b"earlier" and not file.with_suffix(".new").exists()
