"""The outbox: bounded, ordered, and whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.alerting.outbox import Outbox


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
    entry = box.first(not_before={"a"})
    assert entry is not None
    assert entry.key == "b"
    assert box.first(not_before={"a", "b"}) is None


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
        entry = waiting.first(not_before={"base"})
        assert entry is not None
        assert entry.key == "other", "neither the member's first nor, its order kept, the second"
    assert [n for _, n in drain(opened(tmp_path))] == [0, 1, 2, 3, 4], "what is added later holds nothing back"


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
