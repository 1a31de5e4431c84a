"""The outbox: bounded, ordered, and whole or not at all."""

from __future__ import annotations

import subprocess
from pathlib import Path

import orjson
import pytest
from structlog.testing import capture_logs

from agent.delivery.outbox import KEPT_REFUSED, Outbox


def opened(folder: Path, limit: int = 10) -> Outbox:
    box = Outbox(folder, limit)
    box.open()
    return box


def drain(box: Outbox) -> list[tuple[str, int]]:
    seen = []
    while entry := box.first():
        seen.append((entry.key, entry.body["n"]))
        box.remove(entry)
    return seen


def test_order_of_arrival_is_kept_over_a_reopening(tmp_path: Path) -> None:
    box = opened(tmp_path)
    for n, key in enumerate("abab"):
        assert box.add(key, "/p", {"n": n})
    again = opened(tmp_path)
    again.add("c", "/p", {"n": 4})
    assert drain(again) == [("a", 0), ("b", 1), ("a", 2), ("b", 3), ("c", 4)]
    assert list(tmp_path.iterdir()) == []


def test_a_key_that_waits_holds_back_all_of_its_own_and_nothing_else(tmp_path: Path) -> None:
    box = opened(tmp_path)
    for n, key in enumerate("aab"):
        box.add(key, "/p", {"n": n})
    entry = box.first(lambda entry: entry.key != "a")
    assert entry is not None
    assert entry.key == "b"
    assert box.first(lambda _: False) is None


def test_a_full_box_drops_what_only_informs_first_and_then_the_oldest(tmp_path: Path) -> None:
    box = opened(tmp_path, limit=3)
    box.add("page", "/p", {"n": 0})
    box.add("change", "/p", {"n": 1}, droppable=True)
    for n in (2, 3, 4):
        box.add("page", "/p", {"n": n})
    assert box.dropped == 2
    assert drain(opened(tmp_path)) == [("page", 2), ("page", 3), ("page", 4)], "the disk agrees"


def test_a_damaged_file_is_set_aside_and_the_rest_goes_on(tmp_path: Path) -> None:
    box = opened(tmp_path)
    box.add("a", "/p", {"n": 0})
    box.add("b", "/p", {"n": 1})
    first = sorted(tmp_path.glob("*.json"))[0]
    first.write_bytes(first.read_bytes()[:10])
    (tmp_path / "000000000099.new").write_bytes(b"half")
    assert drain(opened(tmp_path)) == [("b", 1)]
    assert len(list(tmp_path.glob("*.damaged"))) == 1


def test_a_disk_that_refuses_keeps_the_entry_in_memory_and_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "box"
    box = opened(folder)
    folder.rmdir()
    folder.write_text("a file where the folder was")
    assert not box.add("a", "/p", {"n": 0})
    assert not box.sync()
    assert box.first() is not None, "it can still be sent"
    folder.unlink()
    folder.mkdir()
    assert box.sync()
    assert len(list(folder.glob("*.json"))) == 1


def test_an_entry_waits_for_what_lies_before_it_under_the_key_that_it_names(tmp_path: Path) -> None:
    box = opened(tmp_path)
    box.add("base", "/p", {"n": 0})
    box.add("member", "/p", {"n": 1}, after="base")
    box.add("member", "/p", {"n": 2})
    box.add("other", "/p", {"n": 3}, after="base gone by")
    box.add("base", "/p", {"n": 4})
    for waiting in (box, opened(tmp_path)):
        entry = waiting.first(lambda entry: entry.key != "base")
        assert entry is not None
        assert entry.key == "other", "neither the member's first nor, its order kept, the second"
    assert [n for _, n in drain(opened(tmp_path))] == [0, 1, 2, 3, 4], "what is added later holds nothing back"


def test_each_owner_has_an_order_of_its_own_that_survives_a_restart(tmp_path: Path) -> None:
    box = opened(tmp_path)
    box.add("a", "/p", {"n": 0}, owner="platform")
    box.add("a", "/p", {"n": 1})
    box.add("a", "/p", {"n": 2}, after="a", owner="models")
    again = opened(tmp_path)
    for waiting in (box, again):
        entry = waiting.first(lambda entry: entry.owner != "platform")
        assert entry is not None and entry.body == {"n": 1}, "what waits for the platform holds nobody else up"
        waiting.remove(entry)
        assert waiting.first(lambda entry: entry.owner != "platform") is None, "but for what has to come after it"


def test_an_entry_without_an_owner_is_written_as_earlier_versions_read_it(tmp_path: Path) -> None:
    opened(tmp_path).add("a", "/p", {"n": 0})
    [file] = tmp_path.glob("*.json")
    assert orjson.loads(file.read_bytes()).keys() == {"number", "key", "path", "body", "droppable", "after"}


def test_what_is_refused_is_kept_with_the_reason_and_not_sent_again(tmp_path: Path) -> None:
    box = opened(tmp_path)
    for n in range(KEPT_REFUSED + 1):
        box.add("a", "/p", {"n": n})
        entry = box.first()
        assert entry is not None
        box.refuse(entry, f"HTTP 400: no. {n}")
        box = opened(tmp_path)
        assert len(box) == 0
    kept = {each["body"]["n"]: each["why"] for each in map(orjson.loads, map(Path.read_bytes, tmp_path.iterdir()))}
    assert kept == {n: f"HTTP 400: no. {n}" for n in range(1, KEPT_REFUSED + 1)}, "the latest"


def test_a_disk_that_became_read_only_does_not_stop_the_sending(tmp_path: Path) -> None:
    box = opened(tmp_path)
    box.add("a", "/p", {"n": 0})
    file = next(tmp_path.glob("*.json"))
    file.unlink()
    file.mkdir()  # unlink() of it is an OSError, for root too
    assert drain(box) == [("a", 0)]
    file.rmdir()
    file.write_bytes(b"the disk can be written again")
    assert box.sync()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("times", [1, 3])
def test_numbers_go_on_after_everything_was_sent(tmp_path: Path, times: int) -> None:
    box = opened(tmp_path)
    for n in range(times):
        box.add("a", "/p", {"n": n})
    assert [n for _, n in drain(box)] == list(range(times))
    assert len(box) == 0


def test_numbers_go_on_where_nothing_could_be_read_at_first(tmp_path: Path) -> None:
    """What an earlier process left is sent first, and nothing is written over it."""
    folder, away = tmp_path / "box", tmp_path / "away"
    opened(folder).add("a", "/p", {"n": 0})
    folder.rename(away)
    folder.write_text("a file where the folder was")
    box = opened(folder)
    assert "outbox in state_dir: File exists" in box.trouble
    box.add("a", "/p", {"n": 1})
    folder.unlink()
    away.rename(folder)
    assert box.sync()
    assert box.trouble == ""
    assert drain(opened(folder)) == [("a", 0), ("a", 1)]
    assert drain(box) == [("a", 0), ("a", 1)]


FOREIGN = {
    "half-written": b'{"number":0,"key":"a","pa',
    "no JSON": b"\xff\xfe",
    "a list": b"[]",
    "of a later version": b'{"number":0,"key":"a","path":"/p","body":{},"droppable":false,"after":"","urgency":1}',
    "another number": b'{"number":7,"key":"a","path":"/p","body":{}}',
    "a number as text": b'{"number":"0","key":"a","path":"/p","body":[]}',
}


@pytest.mark.parametrize("data", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_file_is_set_aside_and_never_written_over(tmp_path: Path, data: bytes) -> None:
    for generation in range(2):
        (tmp_path / "000000000000.json").write_bytes(data)
        box = opened(tmp_path)
        assert box.trouble == ""
        assert box.add("b", "/p", {"n": generation})
        assert drain(box) == [("b", generation)]
    kept = sorted(file.name for file in tmp_path.glob("*.damaged*"))
    assert kept == ["000000000000.damaged", "000000000000.damaged-2"]
    assert {file.read_bytes() for file in tmp_path.glob("*.damaged*")} == {data}


def test_a_folder_in_place_of_an_entry_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "000000000000.json").mkdir()
    (tmp_path / "notes.json").write_text("{}")
    box = opened(tmp_path)
    assert box.trouble == ""
    assert box.add("b", "/p", {"n": 0})
    assert sorted(file.name for file in tmp_path.glob("*.damaged")) == ["000000000000.damaged", "notes.damaged"]


def test_a_full_disk_is_a_trouble_until_there_is_room(full_disk: Path) -> None:
    """Nothing half-written stays behind, which would take the room that the next entry needs."""
    box = opened(full_disk / "box")
    with capture_logs() as lines:
        assert not box.add("a", "/p", {"n": "x" * 500_000})
        assert not box.sync()
        assert "outbox in state_dir: No space left on device" in box.trouble
        assert list((full_disk / "box").iterdir()) == []
        (full_disk / "filler").unlink()
        assert box.sync()
    assert box.trouble == ""
    assert [line["event"] for line in lines] == ["part_not_ok", "part_ok_again"]


def test_a_read_only_disk_is_told_before_there_is_anything_to_write(full_disk: Path) -> None:
    box = opened(full_disk / "box")
    assert box.sync()
    assert box.trouble == ""
    subprocess.run(["mount", "-o", "remount,ro", str(full_disk)], check=True)
    assert box.sync(), "nothing waits"
    assert "outbox in state_dir: no right to change it" in box.trouble
    subprocess.run(["mount", "-o", "remount,rw", str(full_disk)], check=True)
    assert box.sync()
    assert box.trouble == ""
