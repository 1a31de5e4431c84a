"""What a restart must not forget, and a damaged file must not cost more than itself."""

from __future__ import annotations

import subprocess
from pathlib import Path

import orjson
import pytest
from structlog.testing import capture_logs

from agent.alerting.checkpoint import OWN_PAST_EVERY_S, StateFile
from agent.clock import HandClock


def test_what_was_saved_last_is_loaded(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "state")
    assert file.load() == {}
    file.save({"n": 1})
    file.save({"n": 2})
    assert StateFile(tmp_path / "state").load() == {"n": 2}


def test_a_file_of_the_version_before_is_loaded_and_replaced_by_one_of_the_present(tmp_path: Path) -> None:
    path = tmp_path / "monitor.json"
    path.write_bytes(b'{"version": 1, "state": {"n": 1}}')
    file = StateFile(tmp_path)
    assert file.load() == {"n": 1}
    file.save({"n": 2})
    assert orjson.loads(path.read_bytes()) == {"version": 2, "state": {"n": 2}}
    assert StateFile(tmp_path).load() == {"n": 2}


DAMAGED = {
    "half-written": (b'{"version": 2, "sta', "no JSON, or half of it"),
    "no text": (b"\xff", "no JSON, or half of it"),
    "a list": (b"[]", "another version"),
    "of before": (b'{"version": 0, "state": {}}', "another version"),
    "of the next version": (b'{"version": 3, "state": {}}', "another version"),
    "no state": (b'{"version": 2}', "no state in it"),
    "another kind of state": (b'{"version": 2, "state": [1]}', "no state in it"),
}


@pytest.mark.parametrize("data, why", DAMAGED.values(), ids=DAMAGED)
def test_a_file_that_cannot_be_used_is_renamed_and_the_state_starts_empty(
    tmp_path: Path, data: bytes, why: str
) -> None:
    path = tmp_path / "monitor.json"
    for generation, name in enumerate(["monitor.damaged", "monitor.damaged-2"]):
        path.write_bytes(data)
        file = StateFile(tmp_path)
        assert file.load() == {}
        assert (tmp_path / name).read_bytes() == data, "an earlier one is not written over"
        file.save({"n": generation})
        assert file.status == (True, f"began without the earlier state: {why}; it is kept as {name}")
        assert StateFile(tmp_path).load() == {"n": generation}


def test_a_folder_in_its_place_is_renamed(tmp_path: Path) -> None:
    (tmp_path / "monitor.json").mkdir()
    file = StateFile(tmp_path)
    assert file.load() == {}
    file.save({"n": 1})
    assert file.status[0]
    assert StateFile(tmp_path).load() == {"n": 1}


def test_what_cannot_even_be_renamed_is_not_written_over_and_the_status_says_so(full_disk: Path) -> None:
    foreign = b'{"version": 3, "state": {"n": 1}}'
    path = full_disk / "monitor.json"
    path.write_bytes(foreign)
    subprocess.run(["mount", "-o", "remount,ro", str(full_disk)], check=True)
    file = StateFile(full_disk)
    with capture_logs() as lines:
        assert file.load() == {}
        for n in range(3):
            file.save({"n": n})
            ok, words = file.status
            assert not ok
            assert words.startswith("monitor.json in state_dir: another version; Read-only file system, wanted ")
        subprocess.run(["mount", "-o", "remount,rw", str(full_disk)], check=True)
        file.save({"n": 3})
    assert file.status[0]
    assert [line["event"] for line in lines] == ["part_not_ok", "file_set_aside", "part_ok_again"]
    assert path.with_suffix(".damaged").read_bytes() == foreign
    assert StateFile(full_disk).load() == {"n": 3}


def test_a_full_disk_raises_nothing_keeps_the_last_state_and_ends_when_there_is_room(full_disk: Path) -> None:
    file = StateFile(full_disk)
    file.save({"n": 1})
    with capture_logs() as lines:
        for _ in range(3):
            file.save({"n": "x" * 500_000})
        ok, words = file.status
        assert not ok
        assert words.startswith(
            "monitor.json in state_dir: No space left on device, wanted a folder with room that user "
        )
        assert StateFile(full_disk).load() == {"n": 1}
        assert not (full_disk / "monitor.new").exists()
        (full_disk / "filler").unlink()
        file.save({"n": 2})
    assert file.status[0]
    assert [line["event"] for line in lines] == ["part_not_ok", "part_ok_again"], "none for each try"


def test_a_folder_that_cannot_be_made_raises_nothing(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    file = StateFile(tmp_path / "state")
    assert file.load() == {}
    assert not file.status[0], "told before the first round"
    file.save({"n": 1})
    assert not file.status[0]
    (tmp_path / "state").unlink()
    file.save({"n": 2})
    assert file.status == (True, "saved after each round")
    assert StateFile(tmp_path / "state").load() == {"n": 2}


def test_what_only_informs_is_due_every_ten_minutes_and_lies_in_a_file_of_its_own(tmp_path: Path) -> None:
    clock = HandClock()
    file = StateFile(tmp_path, clock)
    assert file.own_past_due
    file.save({"n": 1}, {"banks": 1})
    assert not file.own_past_due
    clock.jump(-86_400.0)
    clock.advance(OWN_PAST_EVERY_S - 1)
    file.save({"n": 2})
    assert not file.own_past_due
    clock.advance(1)
    assert file.own_past_due
    again = StateFile(tmp_path)
    assert (again.load(), again.load_own_past()) == ({"n": 2}, {"banks": 1})


@pytest.mark.parametrize("data", [b"{", b"[]", b'{"version": 1, "state": {"n": 1}}', b'{"version": 2, "state": 3}'])
def test_what_only_informs_and_cannot_be_used_is_written_over(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "own_past.json").write_bytes(data)
    file = StateFile(tmp_path)
    assert file.load_own_past() == {}
    file.save({"n": 1}, {"banks": 1})
    assert StateFile(tmp_path).load_own_past() == {"banks": 1}
    assert file.status[0]


def test_nothing_is_written_of_it_where_the_state_itself_was_not(tmp_path: Path) -> None:
    """It would be ahead of the offsets, and what is read again after a crash would be counted in it twice."""
    (tmp_path / "monitor.new").mkdir()  # so that the state cannot be written
    StateFile(tmp_path).save({"n": 1}, {"banks": 1})
    assert not (tmp_path / "own_past.json").exists()
