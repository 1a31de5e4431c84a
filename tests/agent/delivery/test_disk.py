"""What is put is written in order, by another thread, and whoever puts waits for nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from agent.alerting.checkpoint import StateFile
from agent.delivery import disk as of_disk
from agent.delivery.disk import Disk
from agent.delivery.outbox import Outbox

LONG_S = 20.0


@pytest.fixture
def disk() -> Iterator[Disk]:
    disk = Disk()
    disk.open()
    yield disk
    disk.close(LONG_S)


def held(disk: Disk) -> Callable[[], None]:
    """The disk answers nothing until this is called."""
    begun, may_end = threading.Event(), threading.Event()

    def write() -> None:
        begun.set()
        may_end.wait(LONG_S)

    disk.put_once(write)
    assert begun.wait(LONG_S)
    return may_end.set


def test_before_it_is_open_and_after_it_was_closed_it_writes_at_once() -> None:
    disk, written = Disk(), list[int]()
    disk.put_once(partial(written.append, 1))
    assert written == [1] and disk.await_written(0.0)
    disk.open()
    disk.close(LONG_S)
    disk.put_latest("state", partial(written.append, 2))
    assert written == [1, 2]


def test_order_is_kept_the_latest_of_a_key_is_written_and_what_waits_already_is_put_once(disk: Disk) -> None:
    written = list[str]()
    go_on, sync = held(disk), partial(written.append, "outbox")
    disk.put_once(sync)
    disk.put_latest("state", partial(written.append, "state 1"))
    disk.put_once(sync)
    disk.put_once(partial(written.append, "other"))
    disk.put_latest("state", partial(written.append, "state 2"))
    assert not disk.await_written(0.0) and written == []
    go_on()
    assert disk.await_written(LONG_S)
    assert written == ["outbox", "other", "state 2"]


def test_what_is_replaced_does_not_count_as_what_is_written(disk: Disk) -> None:
    go_on, waited = held(disk), list[bool]()
    waiting = threading.Thread(target=lambda: waited.append(disk.await_written(LONG_S)))
    waiting.start()
    for number in range(3):
        disk.put_latest("state", partial(int, number))
    assert waited == []
    go_on()
    waiting.join(LONG_S)
    assert waited == [True]


def test_a_write_that_fails_holds_up_nothing_behind_it(disk: Disk) -> None:
    written = list[int]()
    with capture_logs() as lines:
        disk.put_once(lambda: 1 // 0)
        disk.put_once(partial(written.append, 1))
        assert disk.await_written(LONG_S)
    assert written == [1] and [line["error"] for line in lines] == ["ZeroDivisionError"]


def test_closing_writes_what_waits() -> None:
    disk, written = Disk(), list[int]()
    disk.open()
    go_on = held(disk)
    disk.put_once(partial(written.append, 1))
    go_on()
    disk.close(LONG_S)
    assert written == [1]


def test_nobody_waits_for_a_disk_that_hangs_and_the_status_says_so(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, box = StateFile(tmp_path, disk=disk), Outbox(tmp_path / "outbox", 10, disk=disk)
    box.open()
    go_on = held(disk)
    assert not box.add("a", "/p", {"n": 0}) and not box.flush()
    assert (entry := box.first()) is not None and entry.key == "a", "it can be sent"
    state.save({"n": 0})
    assert not state.is_saved and state.status[0]
    monkeypatch.setattr(of_disk, "LATE_S", 0.0)
    assert not state.status[0] and "the disk of state_dir has not answered for" in state.status[1]
    go_on()
    assert disk.await_written(LONG_S)
    assert box.flush() and state.is_saved and state.load() == {"n": 0}


def test_a_page_lies_on_disk_before_the_state_that_says_it_was_reported(disk: Disk, tmp_path: Path) -> None:
    state, box, looked = StateFile(tmp_path, disk=disk), Outbox(tmp_path / "outbox", 10, disk=disk), list[int]()
    box.open()
    go_on = held(disk)
    look = lambda: looked.append(len(list((tmp_path / "outbox").glob("*.json"))) - state.load().get("n", 0))  # noqa: E731
    for n in (1, 2, 3):
        box.add("a", "/p", {"n": n})
        state.save({"n": n})
        disk.put_once(partial(look))
    go_on()
    assert disk.await_written(LONG_S)
    assert state.load() == {"n": 3} and looked and min(looked) >= 0, "never more said than there is"


def test_what_was_sent_before_it_was_written_is_never_written(disk: Disk, tmp_path: Path) -> None:
    box = Outbox(tmp_path / "outbox", 10, disk=disk)
    box.open()
    go_on = held(disk)
    box.add("a", "/p", {"n": 0})
    entry = box.first()
    assert entry is not None
    box.remove(entry)
    go_on()
    assert disk.await_written(LONG_S)
    assert box.flush() and list((tmp_path / "outbox").iterdir()) == []


def test_what_only_informs_is_written_although_a_later_state_took_its_place(disk: Disk, tmp_path: Path) -> None:
    state, go_on = StateFile(tmp_path, disk=disk), held(disk)
    state.save({"n": 1}, {"past": 1})
    state.save({"n": 2})
    go_on()
    assert disk.await_written(LONG_S)
    assert (state.load(), state.load_own_past()) == ({"n": 2}, {"past": 1}) and not state.own_past_due
