from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from detectors.records import Reason
from probes.errors import DamagedGolden, MissingGolden, Refused
from probes.golden.archive import adapter_before, load, load_pinned, look_up, newest, save, time_after
from probes.golden.codec import from_bytes
from probes.golden.record import Unmonitorable
from tests.probes.goldens import assert_same, golden


def test_saved_records_are_found_by_hash_and_never_deleted(tmp_path: Path) -> None:
    old, new = golden(at=1.0, seed=1), golden(at=2.0, seed=2)
    old_hash, new_hash = save(old, tmp_path), save(new, tmp_path)
    save(golden("another", at=9.0), tmp_path)
    assert save(old, tmp_path) == old_hash
    assert newest(tmp_path, "router") == new_hash
    assert newest(tmp_path, "unknown") is None
    assert_same(load(tmp_path, old_hash), old)
    assert load_pinned(tmp_path, "router").hash == new_hash
    assert load_pinned(tmp_path, "router", old_hash).hash == old_hash
    assert {path.suffix for path in tmp_path.iterdir()} == {".golden"}
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("where", [0.01, 0.2, 0.5, 0.999])
def test_a_flipped_byte_is_damage(tmp_path: Path, where: float) -> None:
    name = save(golden(), tmp_path)
    path = tmp_path / f"{name.removeprefix('sha256:')}.golden"
    data = bytearray(path.read_bytes())
    data[int(where * len(data))] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedGolden):
        load(tmp_path, name)
    seen = look_up(tmp_path, "router", name)
    assert isinstance(seen, Unmonitorable)
    assert seen.reason is Reason.GOLDEN_REFUSED


def test_a_damaged_record_is_written_again_by_the_same_enrolment(tmp_path: Path) -> None:
    name = save(golden(), tmp_path)
    (tmp_path / f"{name.removeprefix('sha256:')}.golden").write_bytes(b"half")
    assert save(golden(), tmp_path) == name
    assert load(tmp_path, name).hash == name


def test_another_valid_record_under_the_pinned_name_is_refused(tmp_path: Path) -> None:
    pin, other = save(golden(seed=1), tmp_path), save(golden(seed=2), tmp_path)
    paths = {name: tmp_path / f"{name.removeprefix('sha256:')}.golden" for name in (pin, other)}
    paths[pin].write_bytes(paths[other].read_bytes())
    assert from_bytes(paths[pin].read_bytes()).adapter == "router"
    with pytest.raises(DamagedGolden, match="content with hash"):
        load_pinned(tmp_path, "router", pin)


def test_the_record_of_another_adapter_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    empty = look_up(tmp_path / "nothing", "router")
    assert isinstance(empty, Unmonitorable)
    assert empty.reason is Reason.NO_GOLDEN
    name = save(golden("another"), tmp_path)
    with pytest.raises(Refused, match="one of adapter another"):
        load_pinned(tmp_path, "router", name)
    with pytest.raises(Refused, match="64 hexadecimal"):
        load_pinned(tmp_path, "router", "latest")
    nothing = look_up(tmp_path, "router")
    assert isinstance(nothing, Unmonitorable)
    assert nothing.reason is Reason.NO_GOLDEN
    pinned = look_up(tmp_path, "router", "sha256:" + "0" * 64)
    assert isinstance(pinned, Unmonitorable)
    assert pinned.reason is Reason.NO_GOLDEN
    foreign = look_up(tmp_path, "router", name)
    assert isinstance(foreign, Unmonitorable)
    assert foreign.reason is Reason.GOLDEN_REFUSED


def test_an_unreadable_header_never_falls_back_to_an_older_record(tmp_path: Path) -> None:
    save(golden(at=1.0, seed=1), tmp_path)
    name = save(golden(at=2.0, seed=2), tmp_path)
    (tmp_path / f"{name.removeprefix('sha256:')}.golden").write_bytes(b"\x00" * 5)
    with pytest.raises(DamagedGolden, match="head"):
        newest(tmp_path, "router")


@pytest.mark.parametrize("spoilt", ["closed", "folder", "keyless", "no object"])
def test_a_file_that_cannot_be_opened_or_says_nothing_is_damage_and_not_a_crash(tmp_path: Path, spoilt: str) -> None:
    save(golden(), tmp_path)
    path = tmp_path / ("f" * 64 + ".golden")
    if spoilt == "folder":
        path.mkdir()
    elif spoilt == "closed":
        path.symlink_to(path)  # as unreadable as mode 0600 of another user, also for root
    else:
        inner: object = {} if spoilt == "keyless" else [1]
        header = json.dumps({"__metadata__": {"gapwatch": json.dumps(inner)}}).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(DamagedGolden, match=r"f{64}"):
        newest(tmp_path, "router")
    seen = look_up(tmp_path, "router")
    assert isinstance(seen, Unmonitorable) and seen.reason is Reason.GOLDEN_REFUSED


def test_a_replacement_is_newer_than_what_it_replaces_also_by_a_clock_that_is_behind(tmp_path: Path) -> None:
    assert time_after(tmp_path, "", 5.0) == 5.0
    first = save(golden(at=1000.0, seed=1), tmp_path)
    assert time_after(tmp_path, first, 2000.0) == 2000.0
    second = save(golden(at=time_after(tmp_path, first, 10.0), seed=2), tmp_path)
    assert newest(tmp_path, "router") == second


def test_the_adapter_before_is_another_one_however_often_the_present_one_was_enrolled(tmp_path: Path) -> None:
    first, second = "sha256:" + "1" * 64, "sha256:" + "2" * 64
    old = save(replace(golden(at=1.0), adapter_hash=first), tmp_path)
    new = save(replace(golden(at=2.0), adapter_hash=second, previous=old), tmp_path)
    again = save(replace(golden(at=3.0), adapter_hash=second, previous=new), tmp_path)

    def before(record: str, present: str) -> str:
        found = adapter_before(tmp_path, record, lambda held: held.adapter_hash == present)
        return found.adapter_hash if found else ""

    assert before(again, second) == first
    assert before(again, first) == second
    assert before(old, first) == "" == before("", first)
    (tmp_path / f"{new.removeprefix('sha256:')}.golden").unlink()
    with pytest.raises(MissingGolden):
        before(again, second)
