"""Inserts on disk come back as they were, in order, whole or not at all, and never take more room than they may."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from agent.delivery.spool import Spool
from agent.store.rows import to_rows
from agent.store.table_rows import Insert, Origin, plain
from tests.agent import findings

HERE = Origin("prod", "pod-0", store_text=True, consumer_group="support")


def inserts_of_every_kind() -> list[Insert]:
    groups = [group for finding in findings.every_kind() for group in to_rows(finding, HERE)]
    return [Insert(group.table, group.rows, group.token or f"token-{n}") for n, group in enumerate(groups)]


def comparable(value: Any) -> Any:
    """As the driver gets it; nan equals itself here, and a pair is the list that JSON makes of it."""
    value = plain(value)
    if isinstance(value, dict):
        return {name: comparable(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [comparable(one) for one in value]
    return "nan" if isinstance(value, float) and math.isnan(value) else value


def test_every_row_of_every_finding_comes_back_as_it_was(tmp_path: Path) -> None:
    written = inserts_of_every_kind()
    assert Spool(tmp_path, 1e8).append(written)
    after_a_restart = Spool(tmp_path, 1e8)
    (segment,) = after_a_restart.open()
    read = after_a_restart.read(segment)
    assert [(insert.table, insert.token) for insert in read] == [(insert.table, insert.token) for insert in written]
    for was, now in zip(written, read, strict=True):
        assert [comparable(row) for row in now.rows] == [comparable(row) for row in was.rows], was.table


def test_text_that_is_no_unicode_bytes_and_none_come_back(tmp_path: Path) -> None:
    row = {"text": "\ud800 \U0001f680 'quoted'", "bytes": b"", "none": None, "map": {"at": math.inf}, "big": 2**64 - 1}
    spool = Spool(tmp_path, 1e6)
    segment = spool.append([Insert("t", (row, row | {"bytes": b"\xff\x00"}), "x")])
    assert segment is not None
    assert spool.read(segment)[0].rows == (row, row | {"bytes": b"\xff\x00"})


def test_segments_are_sent_in_the_order_in_which_they_were_written_also_over_a_restart(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1e8)
    spool.open()
    kept = [spool.append([Insert("t", ({"n": n},), str(n))]) for n in range(12)]
    for segment in kept[:3]:
        assert segment is not None
        spool.remove(segment)
    again = Spool(tmp_path, 1e8)
    left = again.open()
    assert [again.read(segment)[0].token for segment in left] == [str(n) for n in range(3, 12)]
    assert again.append([Insert("t", ({"n": 99},), "99")])
    assert [segment.number for segment in Spool(tmp_path, 1e8).open()] == list(range(3, 13))


def test_what_was_counted_is_known_without_reading_the_rows_and_by_its_group(tmp_path: Path) -> None:
    def of_group(group: str) -> Spool:
        spool = Spool(tmp_path, 1e8, group)
        spool.open()
        return spool

    for first, partition in ((0, 0), (100, 0), (0, 1)):
        groups = to_rows(findings.batch(first, partition=partition), HERE)
        assert of_group("support").append([Insert(group.table, group.rows, group.token) for group in groups])
    assert of_group("support").counted_upto() == {("llm.interactions", 0): 111, ("llm.interactions", 1): 11}
    assert of_group("sales").counted_upto() == {}, "another group counts for itself"


def test_what_does_not_fit_is_refused_until_something_was_removed(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 3 * 4096)
    one = [Insert("t", ({"n": 1},), "x")]
    first, second, third = (spool.append(one) for _ in range(3))
    assert first and second and third and spool.n_bytes == 3 * 4096
    assert spool.append(one) is None
    assert "spool_mb is used up" in spool.trouble
    spool.remove(first)
    assert spool.append(one) and not spool.trouble
    assert Spool(tmp_path, 1.0).open(), "what was written is sent, also under a lower limit"


def test_a_cut_off_or_damaged_file_costs_itself_alone(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1e8)
    whole = spool.append([Insert("t", ({"n": 1},), "whole")])
    torn = spool.append([Insert("t", tuple({"n": n, "text": str(n)} for n in range(100)), "torn")])
    assert whole and torn
    file = tmp_path / f"{torn.number:012d}.rows"
    file.write_bytes(file.read_bytes()[:-20])
    (tmp_path / "000000000007.rows").write_bytes(b"\x00\x01 no line of JSON")
    (tmp_path / "000000000008.rows").write_bytes(b'{"version": 99}\n')
    (tmp_path / "000000000009.new").write_bytes(b"cut off while it was written")
    again = Spool(tmp_path, 1e8)
    assert [again.read(segment) for segment in again.open()] == [(Insert("t", ({"n": 1},), "whole"),), ()]
    assert again.damaged == 3
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".damaged", ".damaged", ".damaged", ".rows"]


@pytest.mark.parametrize("why", ["a file where the folder should be", "no room"])
def test_a_disk_that_refuses_is_told_and_tried_again(why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "spool"
    if why == "no room":
        monkeypatch.setattr("agent.delivery.spool.os.fsync", _full)
    else:
        folder.write_text("")
    spool = Spool(folder, 1e8)
    spool.open()
    one = [Insert("t", ({"n": 1},), "x")]
    assert spool.append(one) is None
    words = "No space left on device" if why == "no room" else "File exists"
    assert spool.trouble.startswith(f"spool in state_dir: {words}, wanted a folder with room")
    if why == "no room":
        assert list(folder.iterdir()) == [], "half a segment takes no room"
        monkeypatch.undo()
    else:
        folder.unlink()
    assert spool.append(one) and not spool.trouble


def _full(descriptor: int) -> None:
    raise OSError(28, "No space left on device")


def test_its_files_are_for_this_user_alone(tmp_path: Path) -> None:
    assert Spool(tmp_path, 1e8).append([Insert("t", ({"prompt": "of production"},), "x")])
    assert [file.stat().st_mode & 0o777 for file in tmp_path.iterdir()] == [0o600]
